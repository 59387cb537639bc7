"""The shell of the project: one version, a changelog that ends there, and addresses that lead somewhere."""

from __future__ import annotations

import ast
import datetime
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from connector import __version__


@pytest.fixture
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def test_the_version_has_one_place(repository: Path, project: dict[str, Any]) -> None:
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"] == {"path": "connector/__init__.py"}


def test_images_are_named_by_the_version(repository: Path) -> None:
    """A release that forgets one would start the image of the one before."""
    named = []
    for path in (repository / "deploy").rglob("*"):
        if path.is_file():
            named += re.findall(r"(?:rh-connector:|newTag: |image `)(\d+\.[\w.]+)", path.read_text())
    assert named and set(named) == {__version__}


def test_the_changelog_ends_at_the_version(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text()
    first, *released = re.findall(r"^## \[([^\]]+)\](.*)$", text, re.MULTILINE)
    assert first == ("Unreleased", "")
    versions = [Version(version) for version, _ in released]
    assert versions == sorted(versions, reverse=True) and str(versions[0]) == __version__
    for _, date in released:
        assert datetime.date.fromisoformat(date.removeprefix(" - "))
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
    for name, _ in (first, *released):
        assert f"\n[{name}]: https://" in text


def test_the_default_install_is_light_and_can_rerank(project: dict[str, Any]) -> None:
    named = {re.split(r"[>=<\[]", line)[0] for line in project["project"]["dependencies"]}
    assert {"onnxruntime", "onnx", "gguf", "tokenizers", "safetensors", "tantivy", "fastapi", "uvicorn"} <= named
    assert not named & {"torch", "transformers", "accelerate", "onnxscript", "onnxruntime-gpu"}
    extras = project["project"]["optional-dependencies"]
    # onnxruntime-gpu overwrites files of onnxruntime: only whoever asks for it alone gets it.
    assert [name for name, lines in extras.items() if any("onnxruntime" in line for line in lines)] == ["gpu"]
    assert not [name for name, lines in extras.items() if any("gpu" in line for line in lines if "[" in line)]


def test_what_the_default_install_imports_is_required(project: dict[str, Any], repository: Path) -> None:
    """Of what the commands of the default install load; training, peers and other families are extras."""
    brought = {
        "yaml",
        "huggingface_hub",
        "starlette",
        "anyio",
        "prometheus_client",
        "pydantic_settings",
        "httpx2",
        "markupsafe",
        "typing_extensions",
    }
    named = {re.split(r"[>=<\[]", line)[0].replace("-", "_") for line in project["project"]["dependencies"]}
    rooms = [
        "checkpoints",
        "backbone/onnx_runtime",
        "backbone/prompt",
        "backbone/caching",
        "routing",
        "heads",
        "service",
        "cli",
    ]
    found = set()
    for room in rooms:
        for path in (repository / "connector" / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
    others = found - set(sys.stdlib_module_names) - {"connector", "router_export"} - brought
    assert others <= named, f"not required: {', '.join(sorted(others - named))}"


def test_the_addresses_are_given(repository: Path, project: dict[str, Any]) -> None:
    urls = project["project"]["urls"]
    assert list(urls) == ["Homepage", "Documentation", "Changelog", "Issues"]
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    for name, kind in (("Documentation", "/tree/main/"), ("Changelog", "/blob/main/")):
        assert (repository / urls[name].removeprefix(urls["Homepage"] + kind)).exists()
