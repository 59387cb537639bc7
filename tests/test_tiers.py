"""A quick run starts no node, traces no backbone and runs no bench: whoever uses a fixture of those is marked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = "not nodes and not export and not bench and not slow"


def quick(repository: Path, *arguments: str) -> str:
    """What pytest says in a quick run."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", QUICK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_a_quick_run_leaves_out(repository: Path) -> None:
    modules = ("engines/test_contract", "writeback/test_never_breaks_a_search", "cli/commands/test_bench")
    modules += ("cli/commands/test_clusters", "service/gateway/test_real_nodes")
    said = quick(repository, "--collect-only", *(f"tests/{module}.py" for module in modules))
    left = [line for line in said.splitlines() if "::" in line]
    assert {test.partition("::")[0] for test in left} == {
        "tests/engines/test_contract.py",
        "tests/cli/commands/test_clusters.py",
    }
    assert all("embedded" in test or "[" not in test for test in left)


MADE_UP = """
import pytest
pytest_plugins = ["tests.conftest"]

def test_plain():
    pass

def test_direct(opensearch_node):
    pass

@pytest.fixture
def through_another(elasticsearch_node):
    pass

def test_indirect(through_another):
    pass

@pytest.mark.parametrize("name", ["opensearch_3_node"])
def test_by_name(name, request):
    request.getfixturevalue(name)

def test_exporting(tiny_exports):
    pass

def test_unseen_node(request):
    request.getfixturevalue("elasticsearch" + "_node")

def test_unseen_export(request):
    request.getfixturevalue("tiny_exports")
"""


@pytest.mark.slow
def test_who_comes_by_a_way_that_is_not_seen_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "test_made_up.py").write_text(MADE_UP)
    said = quick(repository, "-q", "--rootdir", str(tmp_path), str(tmp_path))
    for test, marker in (("test_unseen_node", "nodes"), ("test_unseen_export", "export")):
        assert re.search(rf"::{test} .*mark it with pytest\.mark\.{marker}$", said, re.M), said
    assert "2 failed, 1 passed, 4 deselected" in said


def test_who_runs_the_bench_is_marked(repository: Path) -> None:
    paths = (repository / "tests").rglob("test_*.py")
    running = [path for path in paths if re.search(r'\["bench"|, "bench", "-', path.read_text())]
    assert running and all(path == Path(__file__) or "pytest.mark.bench" in path.read_text() for path in running)
