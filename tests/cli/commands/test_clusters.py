"""``index``, ``search`` and ``rerank --run`` do the same over each of the three engines."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.evaluation.runs import read_run
from connector.reranker import Reranker
from connector.settings import Settings
from tests.evaluation.folders import DOCUMENTS, write_collection


@pytest.fixture
def loaded(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's reranker instead of a new one."""

    def from_settings(settings: Settings, progress: object = None) -> Reranker:
        return reranker

    monkeypatch.setattr(Reranker, "from_settings", from_settings)


def call(config: Path, *words: Any) -> Result:
    done = CliRunner().invoke(cli, ["--config", str(config), "--json", *map(str, words)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


@pytest.mark.parametrize(
    "kind",
    [
        "embedded",
        *(pytest.param(kind, marks=pytest.mark.nodes) for kind in ("opensearch", "opensearch_3", "elasticsearch")),
    ],
)
def test_from_texts_to_reranked_hits(
    kind: str, request: pytest.FixtureRequest, reranker: Reranker, loaded: None, tmp_path: Path
) -> None:
    url = tmp_path if kind == "embedded" else request.getfixturevalue(f"{kind}_node").url
    config = tmp_path / "config.yaml"
    engine = f"{{kind: {kind.removesuffix('_3')}, url: '{url}', index: c-{uuid.uuid4().hex[:8]}}}"
    config.write_text(f"engine: {engine}\ncache: {{path: {tmp_path / 'cache'}}}\nrouter: {{mode: static}}\n")
    folder = write_collection(tmp_path / "pets")
    assert json.loads(call(config, "index", folder / "corpus.jsonl").stdout)["indexed"] == len(DOCUMENTS)

    found = json.loads(call(config, "search", "how long do cats sleep").stdout)
    assert found["reranked"] and found["hits"][0]["id"] == "cats"
    assert sorted(hit["first_stage_rank"] for hit in found["hits"]) == list(range(1, len(found["hits"]) + 1))

    run, out = tmp_path / "in.trec", tmp_path / "out.trec"
    ids = ["rust", "bread", "whiskers", "cats"]
    run.write_text("".join(f"q1 Q0 {name} {at} {9 - at} bm25\n" for at, name in enumerate(ids, 1)))
    words = ["--run", run, "--out", out, "--queries", folder / "queries.jsonl"]
    assert json.loads(call(config, "rerank", *words).stdout)["queries"] == 1
    texts = {value["_id"]: {"title": value["title"], "text": value["text"]} for value in DOCUMENTS}
    wanted = reranker.rerank(
        "how long do cats sleep",
        [texts[name] for name in ids],
        first_stage=[8.0, 7.0, 6.0, 5.0],
    )
    assert [entry.id for entry in read_run(out)["q1"]] == [ids[hit.index] for hit in wanted.hits]
