"""docs/compatibility.md leaves no cell blank, and names for each tested one a test that runs on that version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
WAYS = ("Search pipeline", "Inference endpoint", "Gateway")
# What a test's module must hold to run on that version: the node's fixture, or its number.
RUNS_ON = {
    "2.19.1": '"opensearch_node"|opensearch_node:',
    "3.6.0": "opensearch_3_node",
    "8.17.0": r'"8\.17\.0"',
    "9.1.0": "elasticsearch_node",
    "9.2.0": r'"9\.2\.0"',
}
STAND_IN = "InferenceDouble|inferring|FakeCluster"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def rows(way: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of a way."""
    lines = PAGE.partition(f"\n## {way}\n")[2].partition("\n## ")[0].splitlines()
    head, _, *found = (line for line in lines if line.startswith("|"))
    return cells(head), [cells(line) for line in found]


ROWS = [(way, row) for way in WAYS for row in rows(way)[1]]


@pytest.mark.parametrize(("way", "row"), ROWS, ids=[f"{way}: {row[0]}" for way, row in ROWS])
def test_a_row_is_whole_and_shown(way: str, row: list[str]) -> None:
    head, _ = rows(way)
    assert len(row) == len(head) and all(row), "a blank cell"
    by_version = dict(zip(head[1:-2], row[1:-2], strict=True))
    assert set(by_version.values()) <= {"tested", "stand-in", "documented", "not there"}
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
    assert tests or re.fullmatch(r"\[[\w ]+\]\([\w.#-]+\)", row[-1]), "tests, or a link"
    sources = {}
    for path, name in tests:
        sources[path] = (ROOT / path).read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(sources[path])) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path} has no {name}"
    for version, cell in by_version.items():
        number = re.search(r"\d+\.\d+\.\d+", version)
        if cell == "tested":
            assert number is not None
            assert any(re.search(RUNS_ON[number[0]], source) for source in sources.values()), (
                f"none runs on {version}"
            )
        elif cell == "stand-in":
            assert any(re.search(STAND_IN, source) for source in sources.values())


def test_the_versions_are_those_of_the_nodes() -> None:
    from tests.nodes import elasticsearch, opensearch

    named = {number for way in WAYS for head in rows(way)[0] for number in re.findall(r"\d+\.\d+\.\d+", head)}
    assert named == {*opensearch.RELEASES, *elasticsearch.RELEASES} == set(RUNS_ON)
