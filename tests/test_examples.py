"""Every example runs as its own text says, with the real small LLM and nothing but its data."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.sections import Settings

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# They load the LLM in new processes: too slow for the quick tier.
slow = pytest.mark.bench


@pytest.fixture
def environment(settings: Settings, smollm2: Checkpoint, tmp_path: Path) -> dict[str, str]:
    """Weights that are here, all else that is kept in a folder of the test; float32: the same scores everywhere."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RH_CACHE__PATH": str(settings.cache.path),
        "RH_BACKBONE__DTYPE": "float32",
        "RH_BACKBONE__OFFLINE": "true",
    }


def run(name: str, environment: dict[str, str], folder: Path, *arguments: str, given: str = "") -> list[str]:
    """Lines of what an example prints."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_how_they_are_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text))
    assert said is not None and f"python examples/{path.name}" in said
    assert len(text.splitlines()) < 40
    # The test below has its name.
    assert f"def test_{path.stem}(" in Path(__file__).read_text(encoding="utf-8")


@pytest.mark.slow
def test_rerank_texts(environment: dict[str, str], tmp_path: Path) -> None:
    question, first, *others = run("rerank_texts", environment, tmp_path)
    assert question == "how do visitors get on the wifi?"
    assert first.startswith("1. ") and "Guest network" in first
    assert len(others) == 2 and "not reranked" not in others[-1]


@pytest.mark.slow
def test_rerank_opensearch_hits(environment: dict[str, str], tmp_path: Path) -> None:
    said, *places = run("rerank_opensearch_hits", environment, tmp_path)
    assert said.endswith(": reranked")
    hits = json.loads((ROOT / "examples/data/opensearch_answer.json").read_text())["hits"]["hits"]
    assert sorted(line.split()[3] for line in places) == sorted(hit["_id"] for hit in hits)
    # What the LLM moves up: the place that words alone gave it was the third.
    assert places[0] == "1. (was 3)  h16  Leaving the company"
    # From standard input, as curl would give it.
    few = json.dumps({"hits": {"hits": hits[:2]}})
    said, *places = run("rerank_opensearch_hits", environment, tmp_path, "cats", "-", given=few)
    assert said == "cats: reranked" and len(places) == 2


@slow
def test_evaluate_own_judgments(environment: dict[str, str], tmp_path: Path) -> None:
    printed = run("evaluate_own_judgments", environment, tmp_path)
    values = {line[:20].strip(): [float(n) for n in re.findall(r"\d\.\d{3}", line)] for line in printed[1:3]}
    assert printed[0] == "12 queries" and list(values) == ["first-stage", "routed+first-stage"]
    assert all(0 < value <= 1 for row in values.values() for value in row)
    assert values["first-stage"] != values["routed+first-stage"]


@slow
def test_train_without_labels(environment: dict[str, str], tmp_path: Path) -> None:
    corpus, router = ROOT / "examples/data/handbook/corpus.jsonl", tmp_path / "own.onnx"
    written, use = run("train_without_labels", environment, tmp_path, str(corpus), str(router))
    assert written.startswith(f"{router}: ") and router.is_file()
    # The next program takes it.
    setting = use.rpartition("--set ")[2].partition("=")
    assert setting[0] == "router.bundle"
    _, first, *_ = run("rerank_texts", {**environment, "RH_ROUTER__BUNDLE": setting[2]}, tmp_path)
    assert "Guest network" in first


@slow
def test_http_client(environment: dict[str, str], tmp_path: Path) -> None:
    first, second = run("http_client", environment, tmp_path)
    assert first.endswith("Adult cats sleep 12 to 16 hours a day.")
    assert float(first.split()[0]) > float(second.split()[0])
