"""Files of static heads: what is written is read, what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from connector.errors import BackboneError
from connector.heads.head_sets import HeadSet, StaticHeads, shipped_path

HEADS = StaticHeads(
    "some-model",
    "f" * 64,
    "late",
    {"query": HeadSet(((1, 2), (0, 3)), 0.5), "icr": HeadSet(((2, 0),), 2.0, (0.25,))},
    {"icr": 4.0},
    {"command": "rh-connector train --static"},
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    HEADS.save(tmp_path / "deep" / "heads.json")
    assert StaticHeads.load(tmp_path / "deep" / "heads.json") == HEADS
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["heads.json"]


def test_another_fingerprint_is_refused_in_one_line() -> None:
    HEADS.check("f" * 64, 3, 4, "heads.json")
    with pytest.raises(BackboneError, match="rh-connector train --static"):
        HEADS.check("e" * 64, 3, 4, "heads.json")
    with pytest.raises(BackboneError, match=r"head \(2, 0\)"):
        HEADS.check("f" * 64, 2, 4, "heads.json")


def test_heads_of_a_layout_that_is_gone_are_refused() -> None:
    with pytest.raises(BackboneError, match="was made for the layout block, which is gone; make one for another"):
        replace(HEADS, layout="block").check(HEADS.fingerprint, 30, 9, "heads.json")


def test_a_missing_readout_names_those_that_are_there() -> None:
    with pytest.raises(BackboneError, match="query, icr"):
        HEADS.for_readout("share")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "rh-static-heads-99"},
        {"sets": {}},
        {"sets": {"other": {"heads": [[1, 2]], "first_stage_weight": 1, "scales": []}}},
        {"sets": {"query": {"heads": [], "first_stage_weight": 1, "scales": []}}},
        {"sets": {"query": {"heads": [[1, 2], [1, 2]], "first_stage_weight": 1, "scales": []}}},
        {"sets": {"query": {"heads": [[1]], "first_stage_weight": 1, "scales": []}}},
        {"sets": {"query": {"heads": [[1, 2]]}}},
        {"sets": {"query": {"heads": [[1, 2]], "first_stage_weight": 1, "scales": [1, 2]}}},
        {"sets": {"query": {"heads": [[1, 2]], "first_stage_weight": 1, "scales": [0]}}},
        {"sets": {"query": {"heads": [[1, 2]], "first_stage_weight": -1, "scales": []}}},
        {"fingerprint": None},
        {"all_heads_first_stage_weights": None},
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "heads.json"
    HEADS.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BackboneError, match=r"heads\.json"):
        StaticHeads.load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}'])
def test_foreign_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "heads.json"
    path.write_text(content)
    with pytest.raises(BackboneError, match="not a head set"):
        StaticHeads.load(path)
    with pytest.raises(BackboneError, match="cannot read"):
        StaticHeads.load(tmp_path / "nothing.json")


def test_nothing_is_shipped_for_unknown_models() -> None:
    assert shipped_path("no-such-model", "late") is None
