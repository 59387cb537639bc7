"""The catalogue says of each model what the docs say, and no figure that was not measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connector.checkpoints.catalogue import CATALOGUE
from connector.heads.head_sets import shipped_path
from connector.routing.bundle import shipped_bundle
from connector.sections import LAYOUTS


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_page_on_models_has_a_row_of_it(name: str, repository: Path) -> None:
    entry, page = CATALOGUE[name], (repository / "docs/models.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \| (.*) \|$", page, re.MULTILINE)
    cells = row.split(" | ")
    assert cells[:4] == [entry.hub, entry.licence, f"{entry.layers} x {entry.heads}", entry.languages]
    told, missing = entry.measured, "not measured"
    assert cells[4:] == [
        missing if told.memory_gb is None else f"{told.memory_gb:g} GB",
        missing if told.gain is None else f"{told.gain:+.4f}",
        missing if told.seconds_new is None else f"{told.seconds_new:g} / {told.seconds_cached:g}",
    ]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_gain_is_the_one_of_the_results(name: str, repository: Path) -> None:
    measured = CATALOGUE[name].measured
    results = (repository / "docs/results.md").read_text(encoding="utf-8")
    section = results.partition(f"## {name}, layout solo, first 20 hits")[2].partition("\n## ")[0]
    found = re.search(r"`routed\+first-stage` against .* mean over collections ([-+.\d]+)\.$", section, re.MULTILINE)
    assert (found and float(found.group(1))) == measured.gain


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_not_shipped_has_no_gain(name: str) -> None:
    shipped = any(find(name, layout) for find in (shipped_bundle, shipped_path) for layout in LAYOUTS)
    assert (CATALOGUE[name].measured.gain is not None) == shipped
