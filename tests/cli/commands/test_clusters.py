"""``index``, ``search`` and ``rerank --run`` do the same over each of the three engines."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.cli.context import Context
from connector.cli.models import Models
from connector.errors import MissingIndexError
from connector.evaluation.runs import read_run
from connector.reranking.reranker import Reranker
from tests.evaluation.folders import DOCUMENTS, write_collection
from tests.loaded_models import LoadedModels


def call(models: Models, config: Path, *words: Any) -> Result:
    given = ["--config", str(config), "--json", *map(str, words)]
    done = CliRunner().invoke(cli, given, obj=Context(models=models))
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
    kind: str, request: pytest.FixtureRequest, reranker: Reranker, models: LoadedModels, tmp_path: Path
) -> None:
    url = tmp_path if kind == "embedded" else request.getfixturevalue(f"{kind}_node").url
    config = tmp_path / "config.yaml"
    engine = f"{{kind: {kind.removesuffix('_3')}, url: '{url}', index: c-{uuid.uuid4().hex[:8]}}}"
    config.write_text(f"engine: {engine}\ncache: {{path: {tmp_path / 'cache'}}}\nrouter: {{mode: static}}\n")
    folder = write_collection(tmp_path / "pets")
    assert json.loads(call(models, config, "index", folder / "corpus.jsonl").stdout)["indexed"] == len(DOCUMENTS)

    found = json.loads(call(models, config, "search", "how long do cats sleep").stdout)
    assert found["reranked"] and found["hits"][0]["id"] == "cats"
    assert sorted(hit["first_stage_rank"] for hit in found["hits"]) == list(range(1, len(found["hits"]) + 1))

    run, out = tmp_path / "in.trec", tmp_path / "out.trec"
    ids = ["rust", "bread", "whiskers", "cats"]
    run.write_text("".join(f"q1 Q0 {name} {at} {9 - at} bm25\n" for at, name in enumerate(ids, 1)))
    words = ["--run", run, "--out", out, "--queries", folder / "queries.jsonl"]
    assert json.loads(call(models, config, "rerank", *words).stdout)["queries"] == 1
    texts = {value["_id"]: {"title": value["title"], "text": value["text"]} for value in DOCUMENTS}
    wanted = reranker.rerank(
        "how long do cats sleep",
        [texts[name] for name in ids],
        first_stage=[8.0, 7.0, 6.0, 5.0],
    )
    assert [entry.id for entry in read_run(out)["q1"]] == [ids[hit.index] for hit in wanted.hits]


@pytest.mark.parametrize(
    "kind",
    ["embedded", *(pytest.param(kind, marks=pytest.mark.nodes) for kind in ("opensearch", "elasticsearch"))],
)
def test_an_index_that_is_not_there_tells_which_are(
    kind: str, request: pytest.FixtureRequest, models: LoadedModels, tmp_path: Path
) -> None:
    url = tmp_path if kind == "embedded" else request.getfixturevalue(f"{kind}_node").url
    folder = write_collection(tmp_path / "pets")
    # Of no other test: nodes are shared.
    name = f"articles-{uuid.uuid4().hex[:8]}"
    config = tmp_path / "config.yaml"
    engine = f"{{kind: {kind}, url: '{url}', index: {name}}}"
    config.write_text(f"engine: {engine}\ncache: {{path: {tmp_path / 'cache'}}}\n")
    call(models, config, "index", folder / "corpus.jsonl")
    run = tmp_path / "in.trec"
    run.write_text("q1 Q0 cats 1 9 bm25\n")
    files = ["--run", str(run), "--out", str(tmp_path / "out.trec"), "--queries", str(folder / "queries.jsonl")]
    given = ["--config", str(config), "--set", f"engine.index={name[:-1]}"]
    for words in (["search", "cats"], ["rerank", *files]):
        done = CliRunner().invoke(cli, [*given, *words], obj=Context(models=models))
        # The nearest name comes first.
        assert isinstance(done.exception, MissingIndexError), (done.output, done.exception)
        told = str(done.exception)
        assert "there is no index" in told and re.search(rf"; there (is|are): {name}(, |$| and )", told), told
        assert "there is no other" not in told and ", ." not in told
    # Doctor says it too; it loads no model that is not here.
    doctor = ["--set", "backbone.model=nothing", "--set", "backbone.offline=true", "--json", "doctor"]
    done = CliRunner().invoke(cli, [*given, *doctor], obj=Context(models=models))
    (seen,) = [row["seen"] for row in json.loads(done.stdout) if row["check"] == "index"]
    assert "there is no index" in seen and re.search(rf"; there (is|are): {name}(, |$| and )", seen), seen
