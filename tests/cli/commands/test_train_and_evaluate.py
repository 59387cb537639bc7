"""From a judged collection to a static head set, with the real LLM on a tiny collection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
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


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["late", "joint"])
def test_heads_are_found_and_stored(collection: Path, cache: Path, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "heads.json"
    common = ["--json", "--set", f"cache.path={cache}", "--set", f"backbone.layout={layout}"]
    train = [*common, "train", "--static", f"{collection}:train", "--window", "5", "--force", "--out", str(out)]
    first = CliRunner().invoke(cli, train, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    static = StaticHeads.load(out)
    assert set(static.sets) == {"icr", "query", "share"} and static.layout == layout
    assert str(tmp_path) not in out.read_text()
    # The second run takes the head scores from disk, and finds the same.
    again = CliRunner().invoke(cli, train, catch_exceptions=False)
    assert again.exit_code == 0 and StaticHeads.load(out) == static
