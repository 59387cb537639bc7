"""How quality and time grow with the window: ``python -m connector.studies.window_sweep FOLDER --keep FILE``.

Unlike ``evaluate``, which reads every head, this asks the reranker that requests are answered with, through all of
its short cuts. Each query's largest window is read once untimed, so that its documents are encoded; then each window
is ranked and timed. One JSON line a query and window is appended to a file as it comes: what was killed goes on.

With ``--picked-from 200`` the layout ``late``, which is fast in long windows, orders so many hits first. The windows
are the beginnings of its order, and "first stage" is that order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from connector.documents import Hit, RerankResult
from connector.errors import DataError, RhConnectorError
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.evaluation.measures import mean, per_query
from connector.evaluation.provenance import installed_versions, portable_command, processor_name, today
from connector.evaluation.running import drawn_queries
from connector.evaluation.significance import compare
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings

__all__ = ["WindowRow", "main", "picked", "read_lines", "summary", "sweep"]

WINDOWS = (20, 50, 100, 300, 1000)
_MEASURE = "nDCG@10"
_MODULE = "connector.studies.window_sweep"
Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window, mean over queries.

    Attributes:
        window: first-stage hits that were reranked.
        queries: how many.
        documents: mean number of hits there were.
        first_stage: nDCG@10 of the first stage.
        fused: nDCG@10 as served.
        alone: nDCG@10 of the heads alone.
        difference: of ``fused`` to the first stage.
        p_value: of that difference, paired randomization test, not corrected for the number of tests.
        milliseconds: median of reranking with cached documents.
        slowest: 95th percentile of the same.
    """

    window: int
    queries: int
    documents: float
    first_stage: float
    fused: float
    alone: float
    difference: float
    p_value: float
    milliseconds: float
    slowest: float


def sweep(
    reranker: Reranker,
    collection: Collection,
    windows: Mapping[str, Sequence[Hit]],
    sizes: Sequence[int],
    done: Iterable[tuple[str, int]] = (),
) -> Iterator[dict[str, Any]]:
    """Rank each query's hits in windows of each size.

    Args:
        reranker: with a document cache that holds the largest window.
        collection: queries and judgments.
        windows: query id -> first-stage hits, as many as the largest size.
        sizes: of the windows.
        done: (query id, size) of what is not wanted again.

    Yields:
        JSON-ready lines: query, window, documents, the nDCG@10 of first stage, fused and alone, milliseconds.

    Raises:
        DataError: a window could not be reranked.
    """
    known = set(done)
    for query, hits in windows.items():
        wanted = [size for size in sizes if (query, size) not in known]
        if not wanted:
            continue
        judged = {query: collection.qrels[query]}

        def value(ids: list[str], hits: Sequence[Hit] = hits, judged: Any = judged) -> float:
            # What stands behind the window keeps its place.
            whole = [*ids, *(hit.id for hit in hits[len(ids) :])]
            return mean(per_query([_MEASURE], judged, dict.fromkeys(judged, whole))[_MEASURE])

        if hits:
            _checked(reranker.rerank(collection.queries[query], hits), query)
        for size in wanted:
            part = hits[:size]
            line: dict[str, Any] = {"query": query, "window": size, "documents": len(part)}
            plain = [hit.id for hit in part]
            fused, alone, milliseconds = plain, plain, 0.0
            if part:
                result = _checked(reranker.rerank(collection.queries[query], part), query)
                fused = [part[hit.index].id for hit in result.hits]
                scores = np.zeros(len(part))
                for hit in result.hits:
                    scores[hit.index] = hit.head_score
                alone = [plain[at] for at in np.argsort(-scores, kind="stable")]
                milliseconds = result.timings_ms["total"]
            ranked = {"first_stage": value(plain), "fused": value(fused), "alone": value(alone)}
            yield {**line, **ranked, "milliseconds": round(milliseconds, 2)}


def summary(lines: Iterable[Line], seed: int = 0) -> list[WindowRow]:
    """Mean and median over the queries of each window.

    Raises:
        DataError: there are no lines.
    """
    by_size: dict[int, list[Line]] = {}
    for line in lines:
        by_size.setdefault(int(line["window"]), []).append(line)
    rows = []
    for size, own in sorted(by_size.items()):
        values = {
            name: {str(line["query"]): float(line[name]) for line in own}
            for name in ("first_stage", "fused", "alone")
        }
        compared = compare(values["fused"], values["first_stage"], seed)
        times = [float(line["milliseconds"]) for line in own if line["documents"]]
        rows.append(
            WindowRow(
                window=size,
                queries=len(own),
                documents=float(np.mean([line["documents"] for line in own])),
                first_stage=round(mean(values["first_stage"]), 4),
                fused=round(mean(values["fused"]), 4),
                alone=round(mean(values["alone"]), 4),
                difference=round(compared.difference, 4),
                p_value=round(compared.p_value, 4),
                milliseconds=round(float(np.median(times)), 1),
                slowest=round(float(np.quantile(times, 0.95)), 1),
            )
        )
    return rows


def _checked(result: RerankResult, query: str) -> RerankResult:
    if not result.reranked and result.reason != "empty documents":
        raise DataError(f"the window of query {query} could not be reranked: {result.reason}")
    return result


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that are whole; none where there is no file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            # Cut off by a kill.
            continue
    return found


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--keep", type=click.Path(path_type=Path), required=True, help="File of one line a query and window.")
@click.option("--window", "sizes", type=int, multiple=True, default=WINDOWS, show_default=True)
@click.option("--picked-from", type=int, help="Hits that the layout late orders before; default: none.")
@click.option("--limit", type=int, help="Queries; default: all.")
@click.option("--split", default="test", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Settings.")
@click.option("--out", type=click.Path(path_type=Path), help="Report as JSON.")
def main(
    folder: Path,
    keep: Path,
    sizes: tuple[int, ...],
    picked_from: int | None,
    limit: int | None,
    split: str,
    seed: int,
    assignments: tuple[str, ...],
    out: Path | None,
) -> None:
    """Print quality and time by window, on a judged collection."""
    try:
        settings = load_settings(options=dict(each.split("=", 1) for each in assignments))
        collection = drawn_queries(load_collection(folder, split=split), limit, seed)
        engine = open_collection_engine(collection, settings)
        lines = read_lines(keep)
        done = {(line["query"], line["window"]) for line in lines}
        missing = {query for query in collection.queries for size in sizes if (query, size) not in done}
        reranker = Reranker.from_settings(settings) if missing or out else None
        if missing:
            asked = {query: text for query, text in collection.queries.items() if query in missing}
            assert reranker is not None
            late = _late(settings) if picked_from else None
            # Query by query: a thousand hits of each at once would be a lot of text.
            with keep.open("a", encoding="utf-8") as file:
                # What was cut off by a kill must not run into what comes.
                if file.tell() and not keep.read_bytes().endswith(b"\n"):
                    file.write("\n")
                for query, text in asked.items():
                    one = replace(collection, queries={query: text}, qrels={query: collection.qrels[query]})
                    windows = first_stage(one, picked_from or max(sizes), engine=engine)
                    if late is not None:
                        windows = {query: picked(late, text, windows.get(query, []))}
                    for line in sweep(reranker, one, windows, sizes, done):
                        file.write(json.dumps(line) + "\n")
                        lines.append(line)
                    file.flush()
        wanted = [line for line in lines if line["query"] in collection.queries and line["window"] in sizes]
        rows = summary(wanted, seed)
    except RhConnectorError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(rows))
    if out is not None:
        assert reranker is not None
        runtime = reranker.reader.runtime
        report = {
            "collection": collection.name,
            "split": split,
            "limit": limit,
            "picked_from": picked_from,
            "router_embedder": settings.router.embedder,
            "seed": seed,
            "layout": settings.backbone.layout,
            "model": settings.backbone.model,
            "precision": runtime.precision,
            "threads": runtime.threads,
            "cpu": processor_name(),
            "date": today(),
            "versions": installed_versions(),
            "command": portable_command(sys.argv[1:], folder).replace("rh-connector", f"python -m {_MODULE}", 1),
            "rows": [asdict(row) for row in rows],
            "lines": wanted,
        }
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def picked(late: Reranker, query: str, hits: Sequence[Hit]) -> list[Hit]:
    """Hits in the order of another reranker, with the scores of the first stage.

    Raises:
        DataError: they could not be reranked.
    """
    return [hits[hit.index] for hit in _checked(late.rerank(query, hits), query).hits] if hits else []


def _late(settings: Settings) -> Reranker:
    backbone = settings.backbone.model_copy(update={"layout": "late"})
    return Reranker.from_settings(settings.model_copy(update={"backbone": backbone}))


def table(rows: Sequence[WindowRow]) -> str:
    """The rows in Markdown."""
    head = "| window | queries | first stage | fused | difference (p) | heads alone | ms, median (95 %) |"
    made = [
        f"| {row.window:,} | {row.queries} | {row.first_stage:.4f} | {row.fused:.4f} | {row.difference:+.4f} "
        f"({row.p_value:.3f}) | {row.alone:.4f} | {row.milliseconds:.0f} ({row.slowest:.0f}) |"
        for row in rows
    ]
    return "\n".join([head, "|" + "---|" * 7, *made])


if __name__ == "__main__":
    main()
