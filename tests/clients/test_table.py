"""The table of clients in docs/http-api.md is what the tests show."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from tests.clients.table import PAGE, Row, Told, marked, merged, read_table, with_table

TOLD = read_table(PAGE.read_text(encoding="utf-8"))


def test_the_table_has_the_rows_of_the_tests() -> None:
    assert set(TOLD) == set(marked()), "run: make clients-table"


def test_all_that_is_told_works() -> None:
    assert [row for row, told in TOLD.items() if not told.works] == []


def test_the_versions_are_those_that_are_pinned(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    pinned = dict(line.split("==") for line in project["project"]["optional-dependencies"]["clients"] if "==" in line)
    told = {row.client: told.versions for row, told in TOLD.items()}
    assert {name: version for name, version in pinned.items() if name in told and version not in told[name]} == {}


@pytest.mark.parametrize("row", [row for row, version in marked().items() if version is not None], ids=str)
def test_another_major_version_of_a_client_is_run_before_it_is_used(row: Row) -> None:
    version = marked()[row]
    assert version is not None
    if re.fullmatch(r"[\d.]+", version) and "." in version:
        majors = {Version(one).major for one in TOLD[row].versions}
        assert Version(version).major in majors, "run: make clients-table"
    else:
        assert TOLD[row].versions == (version,)


def test_a_table_is_read_as_it_is_written() -> None:
    rows = {Row("a", "A.b, c", "/x"): Told(("1.2", "3.0"), True), Row("b", "B", "/y"): Told(("1bf3af6",), False)}
    page = with_table("before\n<!-- clients -->\nold\n<!-- /clients -->\nafter\n", rows)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert read_table(page) == rows and with_table(page, rows) == page


def test_the_last_of_each_major_version_is_kept() -> None:
    assert merged(None, "5.1", True) == Told(("5.1",), True)
    assert merged(Told(("5.1",), True), "10.2", True) == Told(("5.1", "10.2"), True)
    assert merged(Told(("5.1", "10.2"), True), "5.3", False) == Told(("5.3", "10.2"), False)
    assert merged(Told(("1bf3af6",), True), "09504f1", True) == Told(("09504f1",), True)
