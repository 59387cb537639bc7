"""Tables of the steps' files, and what they say of the speeds that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.studies.gpu.steps import read_records
from connector.studies.markdown import markdown_table

__all__ = ["gpu_page"]

_INTRODUCTION = """\
`python -m connector.studies.gpu` made this page, and the files in `{folder}/`, which hold all figures. Do not edit it
by hand.
"""
_LAYOUTS = ("solo", "late")
# Systems of a report as they would be served, the best first that a model may have.
_SERVED = ("routed+first-stage", "static+first-stage", "likelihood+first-stage", "all+first-stage")
_FIRST = "first-stage"
_MS_WARM, _SHARE, _OVER_ICR = 25.0, 0.35, 5.0
# What the first two of these are asked of.
_LARGE = "1.5b"
Record = Mapping[str, Any]


def gpu_page(folder: Path) -> str | None:
    """The page; None: the folder has no results.

    Raises:
        DataError: a file holds something else.
    """
    records = {name: record["found"] for name, record in read_records(folder).items()}
    if not records:
        return None
    parts = ["# On a GPU\n", _INTRODUCTION.format(folder=folder.name), *_machine(records), *_tests(records)]
    times = {name.partition(".")[2]: found for name, found in records.items() if name.startswith("times.")}
    if times:
        peak = records.get("machine", {}).get("peak")
        parts += ["## What was asked for\n", _READING, _musts(times, peak)]
        parts += ["## A window\n", _windows(times, peak), "## Against others\n", _peers(times)]
        parts += ["## By window and clients\n", _growth(times)]
    quality = [found for name, found in records.items() if name.startswith("quality.")]
    if quality:
        parts += ["## Quality\n", _quality(quality)]
    graphs = {name.partition(".")[2]: found for name, found in records.items() if name.startswith("onnx.")}
    if graphs:
        parts += ["## ONNX Runtime\n", _onnx(graphs, times)]
    if failed := sorted(path.name.removesuffix(".failed.txt") for path in folder.glob("*.failed.txt")):
        parts += ["## Failed\n", "".join(f"- `{name}`: see `{name}.failed.txt`.\n" for name in failed)]
    return "\n".join(parts)


_READING = """\
- Encoding: the operations that documents of a cold window cannot do without, over the seconds and the card's rate in
  bfloat16. The rate is the data sheet's where it is known here, and that of the best matrix product measured.
- ICR's way: one prompt with all documents, the same weights.
- Of layouts with stand-in heads nothing but the time means anything.
"""


def _machine(records: Mapping[str, Record]) -> Iterator[str]:
    found = records.get("machine")
    if found is None:
        return
    cards = "; ".join(", ".join(card.values()) for card in found.get("cards", ())) or "unknown"
    rows = [["device", str(found["device"])], ["processor", str(found["cpu"])]]
    if "memory_total" in found:
        rows.append(["memory", f"{found['memory_total'] / 1e9:.1f} GB, {found['memory_free'] / 1e9:.1f} GB free"])
        rows.append(["card, driver, memory, MIG, power", cards])
        peak = found["peak"]
        rows.append(["bfloat16 of the data sheet", "unknown" if peak is None else f"{peak / 1e12:.0f} TFLOP/s"])
    rows.append(["versions", ", ".join(f"{name} {number}" for name, number in found["versions"].items())])
    yield markdown_table(["", "machine"], rows)


def _tests(records: Mapping[str, Record]) -> Iterator[str]:
    found = records.get("tests")
    if found is not None:
        failed = found["failures"] + found["errors"]
        yield f"Tests marked `gpu`: {found['tests']}, of which {failed} failed and {found['skipped']} were skipped.\n"


def _seconds(report: Record) -> dict[str, float]:
    return {row["name"]: row["seconds"] for row in [*report["rows"], *report.get("growth", ())]}


def _middle(report: Record) -> int:
    """The middle window: 100."""
    return max(int(size) for size in report["operations"]["late"])


def _product_rate(report: Record) -> float | None:
    """Operations a second of the best matrix product."""
    rates = [row["operations"] / row["seconds"] for row in report["rows"] if row["name"].startswith("gemm_")]
    return max(rates, default=None)


def _encode_rate(report: Record, layout: str, size: int) -> float | None:
    """Operations a second of encoding a window."""
    seconds = _seconds(report).get(f"encode_{layout}_{size}")
    return report["operations"][layout][str(size)]["encode"] / seconds if seconds else None


def _musts(times: Mapping[str, Record], peak: float | None) -> str:
    rows = []
    for model, report in times.items():
        seconds, size = _seconds(report), _middle(report)
        best = _product_rate(report)
        large = _LARGE in model.lower()
        for layout in _LAYOUTS:
            wanted = (f"warm_{layout}_{size}", f"cold_{layout}_{size}", f"icr_{size}")
            warm, cold, icr = (seconds.get(name) for name in wanted)
            rate = _encode_rate(report, layout, size)
            named = f"{model}, {layout}{' (stand-in heads)' if layout in report['stand_in_heads'] else ''}"
            rows.append(
                [
                    named,
                    _judged(warm and warm * 1e3, _MS_WARM if large else None, "{:.1f} ms", more=False),
                    _judged(rate and peak and rate / peak, _SHARE if large else None, "{:.1%}", more=True),
                    _judged(rate and best and rate / best, None, "{:.1%}", more=True),
                    _judged(icr and warm and icr / warm, _OVER_ICR, "{:.1f}x", more=True),
                    _judged(icr and cold and icr / cold, _OVER_ICR, "{:.1f}x", more=True),
                ]
            )
    size = _middle(next(iter(times.values())))
    header = [
        "model, layout",
        f"{size} cached documents (must: {_MS_WARM:.0f} ms for 1.5B)",
        f"encoding, of the data sheet (must: {_SHARE:.0%} for 1.5B)",
        "encoding, of the best product",
        f"ICR's way over cached (must: {_OVER_ICR:.0f}x)",
        "ICR's way over new",
    ]
    return markdown_table(header, rows)


def _judged(value: float | None, must: float | None, shown: str, *, more: bool) -> str:
    if value is None:
        return "not measured"
    if must is None:
        return shown.format(value)
    good = value >= must if more else value <= must
    return f"{shown.format(value)}{'' if good else ' (missed)'}"


def _windows(times: Mapping[str, Record], peak: float | None) -> str:
    rows = []
    for model, report in times.items():
        seconds = _seconds(report)
        for layout in _LAYOUTS:
            for size, operations in report["operations"][layout].items():
                cached = report["cached_document"][layout].get("bytes")
                rate = _encode_rate(report, layout, int(size))
                tokens = int(size) * report["machine"]["tokens"]
                encode = seconds.get(f"encode_{layout}_{size}")
                rows.append(
                    [
                        f"{model}, {layout}, {size}",
                        _shown(seconds.get(f"cold_{layout}_{size}"), "{:.4f}"),
                        _shown(seconds.get(f"warm_{layout}_{size}"), "{:.4f}"),
                        f"{operations['encode'] / 1e9:,.0f}",
                        f"{operations['read'] / 1e9:,.0f}",
                        _shown(encode and tokens / encode, "{:,.0f}"),
                        _shown(rate and rate / 1e12, "{:.1f}"),
                        _shown(cached and cached / 1e3, "{:,.1f}"),
                    ]
                )
    header = ["model, layout, documents", "s, new", "s, cached", "GFLOP, encoding", "GFLOP, reading"]
    return markdown_table([*header, "tokens/s, encoding", "TFLOP/s, encoding", "kB a document"], rows)


def _peers(times: Mapping[str, Record]) -> str:
    rows = []
    for model, report in times.items():
        for row in report["rows"]:
            if row["name"].startswith(("cross_encoder_", "icr_")):
                on = row.get("runs_on", report["machine"]["device"])
                rows.append([f"{model}: `{row['name']}`", on, f"{row['seconds']:.4f}"])
        rows += [[f"{model}: `{name}`", "not measured", reason] for name, reason in report["skipped"].items()]
    return markdown_table(["row", "on", "s"], rows)


def _growth(times: Mapping[str, Record]) -> str:
    rows = [
        [f"{model}, {row['layout']}", row["by"].replace("_", ", "), str(row["value"]), f"{row['seconds'] * 1e3:.2f}"]
        for model, report in times.items()
        for row in report.get("growth", ())
        if row["by"] != "tokens"
    ]
    return markdown_table(["model, layout", "by", "", "ms a request"], rows)


def _quality(found: Sequence[Record]) -> str:
    tables: dict[tuple[str, str, int], list[Record]] = {}
    for each in found:
        made = each["provenance"]
        tables.setdefault((made["model"], made["layout"], each["window"]), []).append(each)
    rows = []
    for (model, layout, window), own in sorted(tables.items()):
        named = f"{model}, {layout}, {window}"
        gains = []
        for each in own:
            by_name = {row["name"]: row for row in each["rows"]}
            served = next((name for name in _SERVED if name in by_name), None)
            if served is not None:
                gain = by_name[served]["nDCG@10"] - by_name[_FIRST]["nDCG@10"]
                gains.append(gain)
                rows.append([named, each["collection"], served, str(each["queries"]), f"{gain:+.4f}"])
        if gains:
            rows.append([named, f"mean of {len(gains)}", "", "", f"{sum(gains) / len(gains):+.4f}"])
    return markdown_table(["model, layout, documents", "collection", "row", "queries", "gain in nDCG@10"], rows)


def _onnx(graphs: Mapping[str, Record], times: Mapping[str, Record]) -> str:
    rows = []
    for model, report in graphs.items():
        own, torch = _seconds(report), _seconds(times[model]) if model in times else {}
        on = f"{report['machine']['device']}, {report['machine']['precision']}"
        for name, seconds in own.items():
            if name.startswith(("warm_", "cold_")):
                rows.append([f"{model}: `{name}`", on, f"{seconds:.4f}", _shown(torch.get(name), "{:.4f}")])
    return markdown_table(["row", "on", "s", "s in torch"], rows)


def _shown(value: float | None, shown: str) -> str:
    return "" if value is None else shown.format(value)
