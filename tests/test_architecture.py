"""The shape: who may import whom, how long a module may be, and that the core stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# A part may import the parts before it (and itself).
_PARTS = [
    "installation",
    "errors",
    "storage_faults",
    "golden",
    "cancelling",
    "credentials",
    "sections",
    "settings",
    "documents",
    "sentences",
    "templates",
    "checkpoints",
    "heads",
    "embedding",
    "backbone",
    "explanation",
    "routing",
    "reranking",
    "engines",
    "writeback",
    "diagnosis",
    "statistics",
    "offline",
    "evaluation",
    "training",
    "service",
    "benchmark",
    "cli",
    "studies",
]
# What comes before a part, and is still none of its business.
_FORBIDDEN = {("heads", "checkpoints"), ("engines", "backbone"), ("engines", "heads"), ("engines", "reranking")}
# Serving never imports training.
_FORBIDDEN |= {("service", "training"), ("service", "evaluation"), ("service", "statistics")}

# Where a library may be imported: folders, and the few modules that a folder's question does not cover.
_TORCH_ROOMS = [
    "connector/studies/relevance/*",
    "connector/backbone/torch_runtime/*",
    # Asks whether it is installed.
    "connector/backbone/open_reader.py",
    "connector/checkpoints/gguf_conversion.py",
    # Routers are trained in torch, and run without it.
    "connector/training/*",
    # The LLM's layers are traced from torch, and run without it.
    "router_export/backbone/*",
    # The peers of benchmarks.
    "connector/benchmark/cross_encoder.py",
    "connector/benchmark/floor.py",
]
_ONNX_RUNTIME_ROOMS = [
    "connector/backbone/onnx_runtime/*",
    "connector/routing/bundle.py",
    "connector/embedding/embedder.py",
    # Of routers and embedding models.
    "connector/embedding/sessions.py",
    "connector/benchmark/cross_encoder.py",
    # Exports are verified.
    "router_export/*",
]


def modules(repository: Path) -> list[Path]:
    return sorted([*repository.glob("connector/**/*.py"), *repository.glob("router_export/**/*.py")])


def part_of(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "connector" and len(pieces) > 1 else None


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_dependencies_point_one_way(repository: Path) -> None:
    wrong = []
    for path in modules(repository):
        relative = path.relative_to(repository).with_suffix("")
        own = part_of(".".join(relative.parts))
        if own not in _PARTS:
            continue
        for name in imports(path):
            other = part_of(name)
            if other in _PARTS and (_PARTS.index(other) > _PARTS.index(own) or (own, other) in _FORBIDDEN):
                wrong.append(f"{relative} imports {name}")
    assert not wrong


def users_of(packages: set[str], repository: Path) -> set[str]:
    """The modules, as paths in the repository, that import one of the packages, wherever in the module."""
    return {
        path.relative_to(repository).as_posix()
        for path in modules(repository)
        if any(name.split(".")[0] in packages for name in imports(path))
    }


def outside(users: set[str], rooms: list[str]) -> list[str]:
    return sorted(user for user in users if not any(fnmatch(user, room) for room in rooms))


def test_torch_and_transformers_are_imported_where_the_llm_runs_only(repository: Path) -> None:
    assert not outside(users_of({"torch", "transformers"}, repository), _TORCH_ROOMS)


def test_onnx_runtime_is_imported_where_exported_models_run_only(repository: Path) -> None:
    assert not outside(users_of({"onnxruntime"}, repository), _ONNX_RUNTIME_ROOMS)


def test_ray_is_imported_where_work_goes_elsewhere_only(repository: Path) -> None:
    assert users_of({"ray"}, repository) == {"connector/offline/ray_cluster.py"}


def test_a_folder_has_one_question(repository: Path) -> None:
    counts = Counter(path.parent for path in modules(repository) if path.name != "__init__.py")
    assert max(counts.values()) <= 16


def test_no_module_imports_itself_in_a_circle(repository: Path) -> None:
    """Counts imports inside functions too: they hide a circle, and do not open it."""
    files = {".".join(path.relative_to(repository).with_suffix("").parts): path for path in modules(repository)}
    # Packages without code of their own are no stop on a way.
    graph = {name: [other for other in imports(path) if other in files] for name, path in files.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_module_is_long(repository: Path) -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in modules(repository))
    assert lengths[-1] <= 500
    assert lengths[int(len(lengths) * 0.9)] <= 350


def test_no_function_takes_more_than_twelve_parameters(repository: Path) -> None:
    """A command with more gathers them by ``**options`` into a dataclass."""
    many = []
    for path in modules(repository):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len(given) > 12:
                    many.append(f"{path.relative_to(repository)}: {node.name} takes {len(given)}")
    assert not many


@pytest.mark.parametrize("heavy", ["torch", "transformers", "tantivy", "fastapi", "scipy", "numpy"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, connector.cli; sys.exit('{heavy}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
