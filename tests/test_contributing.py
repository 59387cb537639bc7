"""CONTRIBUTING.md names what is there: every file, and the seam of each recipe."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from connector.service.dialects.request import DialectRequest

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^### (An? .*)\n((?:(?!^##).*\n)*)", PAGE, re.MULTILINE))
# A path has a slash or a known ending; a dotted name of ours is a module's attribute.
NAMED = re.findall(r"(?:`|\]\()([\w./-]+)[`)]", PAGE)
FILES = sorted({name for name in NAMED if "/" in name or name.endswith((".md", ".toml", ".yaml"))})
SEAM = re.compile(r"`(connector(?:\.\w+)+)`")


def test_there_is_a_recipe_for_each_seam() -> None:
    assert list(RECIPES) == [
        "A read-out",
        "A signal that is no head's read-out",
        "A rerank dialect",
        "An engine",
        "A runtime",
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_named_is_there(repository: Path, name: str) -> None:
    if "NAME" in name:
        # To be made: beside others of its kind.
        first, *_ = (part for part in Path(name).parts if "NAME" in part)
        folder = repository / name[: name.index(first)]
        assert folder.is_dir() and any(folder.glob(f"*{Path(name).suffix}"))
        assert not (repository / name).exists()
    else:
        assert (repository / name).exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_s_seam_is_there(recipe: str) -> None:
    seams = SEAM.findall(RECIPES[recipe])
    assert seams
    for seam in seams:
        module, _, name = seam.rpartition(".")
        assert hasattr(importlib.import_module(module), name), seam


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_touches_code_tests_and_what_users_read(recipe: str) -> None:
    rows = re.findall(r"^\| (`.*?) \|", RECIPES[recipe], re.MULTILINE)
    touched = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert any(name.startswith("connector/") for name in touched)
    assert any(name.startswith("tests/") for name in touched)
    assert "CHANGELOG.md" in touched


def test_a_dialect_is_what_the_recipe_says() -> None:
    wanted = re.search(r"a `DialectRequest` with `(\w+)` and `(\w+)`", PAGE)
    assert wanted and all(name in DialectRequest.__abstractmethods__ for name in wanted.groups())


def test_names_in_the_recipes_are_those_of_the_code(repository: Path) -> None:
    """What a recipe tells to extend, by its bare name, stands in the file of that row."""
    for row in re.findall(r"^\| (`[^|]*\.py`) \| ([^|]*) \|$", PAGE, re.MULTILINE):
        (file, *others), change = re.findall(r"`([^`]+)`", row[0]), row[1]
        if others or "NAME" in file:
            continue
        source = (repository / file).read_text(encoding="utf-8")
        for name in re.findall(r"`([A-Za-z_]+)`", change):
            assert re.search(rf"\b{name}\b", source), f"{file}: {name}"
