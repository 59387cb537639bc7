"""The proof that a search pipeline ranks as the library does, on a real node, with the real LLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.cli import cli
from connector.documents import Hit
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import Connection
from connector.evaluation.collections import load_collection
from connector.evaluation.runs import read_run
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from connector.studies.pipeline_proof import Searches, load, main, quality
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.evaluation.folders import write_collection
from tests.nodes.process import Node
from tests.service.live import serving


@pytest.fixture(scope="module")
def config(opensearch_node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings for a small collection that is in the node's index."""
    folder = write_collection(tmp_path_factory.mktemp("proof") / "pets")
    path = folder.parent / "config.yaml"
    engine = f"{{kind: opensearch, url: '{opensearch_node.url}', index: proof, fields: [title, text]}}"
    path.write_text(f"engine: {engine}\nrouter: {{mode: static}}\nwriteback: {{name: proof, timeout_s: 20}}\n")
    assert CliRunner().invoke(cli, ["--config", str(path), "index", str(folder / "corpus.jsonl")]).exit_code == 0
    return path


@pytest.fixture(scope="module")
def settings_here(config: Path) -> Settings:
    return load_settings(str(config), {}, {})


@pytest.fixture(scope="module")
def connection(settings_here: Settings) -> Iterator[Connection]:
    opened = connect(settings_here.engine)
    yield opened
    opened.request("DELETE", "/proof")
    opened.close()


def test_pipeline_and_evaluation_agree_and_nothing_is_lost(
    config: Path, settings_here: Settings, connection: Connection, reranker: Reranker, tmp_path: Path
) -> None:
    folder = config.parent / "pets"
    collection = load_collection(folder, "test")
    with serving(reranker, settings_here) as (url, _):
        served = load_settings(str(config), {"writeback.service_url": url}, {})
        plan = PipelinePlan.of(served, "rerank")
        pipeline = OpenSearchPipeline(connection, plan)
        pipeline.install()
        try:
            searches = Searches(connection, served, plan)

            def library(query: str, text: str, hits: list[Hit]) -> list[str]:
                return [str(hit.id) for hit in reranker.rerank(text, hits).hits]

            kept = tmp_path / "kept.jsonl"
            found = quality(searches, collection, library, kept)
            assert (found.queries, found.reranked, found.same_order) == (2, 2, 2)
            assert found.pipeline == found.library > 0
            # Half a line of a kill is dropped, whole ones are not searched again.
            lines = kept.read_text().splitlines(keepends=True)
            kept.write_text(lines[0] + lines[1][:20])
            again = quality(searches, collection, library, kept)
            assert again == found and kept.read_text().splitlines(keepends=True) == lines
            under = load(searches, list(collection.queries.values()), 20, 4)
            assert (under.searches, under.clients, under.failed, under.lost, under.reranked) == (20, 4, 0, 0, 20)
            assert 0 < under.plain_p50 <= under.plain_p95 and 0 < under.pipeline_p50 <= under.pipeline_p95
            run = _evaluated(config, folder, tmp_path)
            assert sorted(read_run(run)) == sorted(collection.queries)
            options = ["--config", str(config), "--run", str(run), "--searches", "0"]
            # Where the service listens is told by the environment, as the settings file cannot know it.
            told = CliRunner(env={"RH_WRITEBACK__SERVICE_URL": url}).invoke(main, [str(folder), *options])
            assert told.exit_code == 0, told.output
            measured = json.loads(told.stdout)["quality"]
            assert measured["same_order"] == 2 and measured["library"] == found.library
        finally:
            pipeline.uninstall()


def _evaluated(config: Path, folder: Path, out: Path) -> Path:
    words = ["evaluate", str(folder), "--by-rank", "--timed", "0", "--runs", str(out / "runs")]
    done = CliRunner().invoke(cli, ["--config", str(config), *words])
    assert done.exit_code == 0, done.output
    return out / "runs" / "routed+first-stage.trec"
