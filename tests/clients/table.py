"""The table of clients in docs/http-api.md: rows from the tests' markers, versions and outcomes from a run."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.version import Version

__all__ = ["PAGE", "Row", "Told", "marked", "read_table", "with_table"]

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"
_BEGIN, _END = "<!-- clients -->\n", "<!-- /clients -->\n"
_HEAD = "| client | version | call | route | works |\n|---|---|---|---|---|\n"


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """What one test or several show: a client, what is called of it, and the path that it then asks."""

    client: str
    call: str
    route: str


@dataclass(frozen=True, slots=True)
class Told:
    """What the table says of a row: the versions that ran, oldest first, and whether all of its tests passed."""

    versions: tuple[str, ...]
    works: bool


def row_of(marker: pytest.Mark) -> tuple[Row, str | None]:
    """The row of a ``client`` marker, and the version that ran; None: it is not installed here."""
    row = Row(*marker.args)
    if "version" in marker.kwargs:
        return row, str(marker.kwargs["version"])
    try:
        return row, version(row.client)
    except PackageNotFoundError:
        return row, None


def marked() -> dict[Row, str | None]:
    """Every row that a test in this folder has, with the version that is installed here."""
    return dict(row_of(mark) for mark in _marks())


def _marks() -> Iterator[pytest.Mark]:
    package = importlib.import_module(__package__ or "tests.clients")
    for found in pkgutil.iter_modules(package.__path__):
        if found.name.startswith("test_"):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            for _, function in inspect.getmembers(module, inspect.isfunction):
                yield from (mark for mark in getattr(function, "pytestmark", []) if mark.name == "client")


def read_table(page: str) -> dict[Row, Told]:
    """The table that the page has."""
    lines = page.partition(_BEGIN)[2].partition(_END)[0].removeprefix(_HEAD).splitlines()
    found = {}
    for line in lines:
        client, versions, call, route, works = (cell.strip(" `") for cell in line.strip("|").split(" | "))
        found[Row(client, call, route)] = Told(tuple(versions.split(", ")), works == "yes")
    return found


def with_table(page: str, rows: Mapping[Row, Told]) -> str:
    """The page with another table."""
    before, _, rest = page.partition(_BEGIN)
    lines = ""
    for row, told in sorted(rows.items()):
        works = "yes" if told.works else "no"
        lines += f"| `{row.client}` | {', '.join(told.versions)} | {row.call} | `{row.route}` | {works} |\n"
    return before + _BEGIN + _HEAD + lines + _END + rest.partition(_END)[2]


def merged(old: Told | None, ran: str, works: bool) -> Told:
    """What is told after a run of that version; of each major version the last that ran stays.

    A version that is no number, as a commit, takes the place of what was there.
    """
    if old is None or not ran[0].isdigit() or "." not in ran:
        return Told((ran,), works)
    kept = [one for one in old.versions if Version(one).major != Version(ran).major]
    return Told(tuple(sorted([*kept, ran], key=Version)), works)
