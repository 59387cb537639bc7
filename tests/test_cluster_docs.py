"""The commands in the pages on clusters run, in their order, against real nodes and the real LLM."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from tests.nodes.process import Node
from tests.service.live import serving

ARTICLES = [
    {"_id": "1", "title": "Undo", "text": "How to undo a commit: git reset moves the branch back."},
    {"_id": "2", "title": "Commit", "text": "A commit records changes. To commit, add files first."},
    {"_id": "3", "title": "Bread", "text": "Undo the dough's mistakes by kneading again."},
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


def run(script: str, folder: Path, **environment: str) -> str:
    """A shell block of the docs, with our own command first on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_opensearch(repository: Path, tmp_path: Path, opensearch_node: Node, reranker: Reranker) -> None:
    page = repository / "docs/opensearch.md"
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(article) + "\n" for article in ARTICLES))
    settings = load_settings("/dev/null", {"serve.api_keys": "choose-one"}, {})
    with serving(reranker, settings) as (url, _):

        def here(text: str) -> str:
            return text.replace("http://localhost:9200", opensearch_node.url).replace("http://10.0.0.7:8080", url)

        (config,) = blocks(page, "yaml")
        (tmp_path / "config.yaml").write_text(here(config))
        outputs = [run(here(block), tmp_path, RH_SERVE__API_KEYS="choose-one") for block in blocks(page, "sh")]
    searched, installed, answered, last = outputs
    assert "Undo" in searched or "undo a commit" in searched
    assert "CONNECTOR_ID=$(curl" in installed and "ok  a search: 3 hits, reranked" in installed
    answer: dict[str, Any] = json.loads(answered)
    assert "profile" in answer and answer["hits"]["hits"][0]["_id"] == "1"
    assert "DEPLOYED" in last and "removed" in last
    assert "choose-one" not in "".join(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/no-cluster.md"])
def test_without_a_cluster(repository: Path, tmp_path: Path, page: str) -> None:
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(article) + "\n" for article in ARTICLES))
    environment = {"RH_ENGINE__URL": str(tmp_path / "indexes")}
    outputs = [run(block, tmp_path, **environment) for block in blocks(repository / page, "sh")]
    assert "3 documents in default" in outputs[0] and "Undo" in outputs[0]


def test_elasticsearch(repository: Path, tmp_path: Path, elasticsearch_node: Node, reranker: Reranker) -> None:
    page = repository / "docs/elasticsearch.md"
    (tmp_path / "articles.jsonl").write_text("".join(json.dumps(article) + "\n" for article in ARTICLES))
    (config,) = blocks(page, "yaml")
    (tmp_path / "config.yaml").write_text(config.replace("http://localhost:9200", elasticsearch_node.url))
    (output,) = [run(block, tmp_path) for block in blocks(page, "sh")]
    assert "3 documents in articles" in output and output.count("Undo") == 2


def test_gateway(repository: Path, tmp_path: Path, opensearch_node: Node, reranker: Reranker) -> None:
    page = repository / "docs/gateway.md"
    engine = {"engine.kind": "opensearch", "engine.url": opensearch_node.url, "engine.index": "books"}
    books = [Document(article["_id"], {"text": f"{article['text']} Cats do not sleep."}) for article in ARTICLES]
    with open_engine(load_settings("/dev/null", engine, {})) as opened:
        opened.index(books)
    started, searched = blocks(page, "bash")
    line, search = started.split("\n", 1)
    assert line.startswith("rh-connector serve --port 8080"), "what the other commands are sent to"
    for keys, block in ((None, search), ("KEY", searched)):
        settings = load_settings("/dev/null", {**engine, **({"serve.api_keys": keys} if keys else {})}, {})
        with serving(reranker, settings) as (url, _):
            answer = json.loads(run(block.replace("http://localhost:8080", url), tmp_path))
        assert answer["rerank"]["reranked"] and len(answer["hits"]["hits"]) == 3


def test_troubleshooting(repository: Path, tmp_path: Path, opensearch_node: Node) -> None:
    engine = {"engine.kind": "opensearch", "engine.url": opensearch_node.url, "engine.index": "doctored"}
    with open_engine(load_settings("/dev/null", engine, {})) as opened:
        opened.index([Document("1", {"text": "one"})])
    (tmp_path / "config.yaml").write_text(
        f"engine: {{kind: opensearch, url: '{opensearch_node.url}', index: doctored, fields: [text]}}\n"
    )
    (output,) = [run(block, tmp_path) for block in blocks(repository / "docs/troubleshooting.md", "sh")]
    assert "OpenSearch 2.19.1" in output or "opensearch 2.19.1" in output
    assert "FAIL" not in output
