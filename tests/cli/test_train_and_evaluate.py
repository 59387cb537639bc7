"""From a judged collection to a head set to a report, with the real LLM on a tiny collection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.backbone.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import BackboneError
from connector.evaluation.report import report_from_json
from connector.heads.head_sets import StaticHeads

DOCUMENTS = {
    "cats": "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
    "whiskers": "A cat's whiskers are as wide as its body and help it to judge gaps.",
    "bread": "To bake bread, mix flour, water, salt and yeast and let the dough rest for hours.",
    "stocks": "Shares closed higher on the day after hours of trading.",
    "rust": "Rust is a programming language with memory safety.",
    "river": "The river runs through the valley to the sea.",
}
QUERIES = {"q1": ("how many hours do cats sleep a day", "cats"), "q2": ("bake bread flour hours", "bread")}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    lines = (json.dumps({"_id": key, "title": "", "text": text}) for key, text in DOCUMENTS.items())
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    for suffix in ("", "_train"):
        asked = (json.dumps({"_id": key, "text": text}) for key, (text, _) in QUERIES.items())
        (folder / f"queries{suffix}.jsonl").write_text("\n".join(asked))
        judged = "".join(f"{key}\t{document}\t1\n" for key, (_, document) in QUERIES.items())
        (folder / f"qrels{suffix}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.fixture
def cache(smollm2: Checkpoint, tmp_path: Path) -> Path:
    """A cache folder of its own, with the real model in it."""
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "smollm2-135m").symlink_to(smollm2.path)
    return tmp_path / "cache"


@pytest.mark.parametrize("layout", ["block", "late", "joint"])
def test_heads_are_found_stored_and_measured(collection: Path, cache: Path, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "heads.json"
    common = ["--json", "--set", f"cache.path={cache}", "--set", f"backbone.layout={layout}"]
    train = [*common, "train", "--static", f"{collection}:train", "--window", "5", "--out", str(out)]
    first = CliRunner().invoke(cli, train, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    static = StaticHeads.load(out)
    assert set(static.sets) == {"icr", "query", "share"} and static.layout == layout
    assert str(tmp_path) not in out.read_text()
    # The second run takes the head scores from disk, and finds the same.
    again = CliRunner().invoke(cli, train, catch_exceptions=False)
    assert again.exit_code == 0 and StaticHeads.load(out) == static

    report_file = tmp_path / "report.json"
    evaluate = [*common, "--set", f"router.bundle={out}", "evaluate", str(collection), "--window", "5"]
    measured = CliRunner().invoke(cli, [*evaluate, "--timed", "1", "--out", str(report_file)], catch_exceptions=False)
    assert measured.exit_code == 0, measured.output
    value = json.loads(measured.stdout)
    assert value == json.loads(report_file.read_text())
    assert (value["collection"], value["queries"], value["window"]) == ("tiny", 2, 5)
    names = [(row["name"], row["readout"]) for row in value["rows"]]
    assert names[:3] == [("first-stage", None), ("all", "icr"), ("all+first-stage", "icr")]
    assert {("static", name) for name in static.sets} | {("static+first-stage", name) for name in static.sets} < set(
        names
    )
    for row in value["rows"]:
        assert 0 <= row["nDCG@10"] <= 1 and 0 <= row["MRR@10"] <= 1
        assert row["seconds_per_query"] is None or (row["seconds_per_query"] > 0 and row["seconds_cached"] > 0)
    fused = next(row for row in value["rows"] if row["name"] == "static+first-stage" and row["readout"] == "query")
    assert fused["nDCG@10"] == 1.0
    assert report_from_json(value, "report.json").provenance.head_set == "heads.json"


def test_heads_of_another_layout_are_refused(collection: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "heads.json"
    common = ["--set", f"cache.path={cache}"]
    train = [*common, "train", "--static", f"{collection}:train", "--window", "5", "--out", str(out)]
    assert CliRunner().invoke(cli, train, catch_exceptions=False).exit_code == 0
    evaluate = [*common, "--set", f"router.bundle={out}", "evaluate", str(collection), "--layout", "late"]
    with pytest.raises(BackboneError, match="run: rh-connector train --static"):
        CliRunner().invoke(cli, evaluate, catch_exceptions=False)
