"""Enough to learn from, and the gain that is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest

from connector.errors import DataError
from connector.evaluation.significance import compare
from connector.training.gain import FEW, FEWEST, Gain, enough

T = TypeVar("T")


class Heard:
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        return iter(items)


@pytest.mark.parametrize("queries", [0, 5, FEWEST - 1])
def test_next_to_nothing_is_refused_unless_forced(queries: int) -> None:
    heard = Heard()
    with pytest.raises(DataError, match=f"^train: {queries} windows .* with --force$"):
        enough(queries, False, heard)
    assert heard.lines == []
    enough(queries, True, heard)
    assert heard.lines[0].startswith(f"Warning: {queries} queries are little")


def test_little_is_warned_of_and_enough_is_not() -> None:
    heard = Heard()
    enough(FEW - 1, False, heard)
    assert len(heard.lines) == 1
    enough(FEW, False, heard)
    assert len(heard.lines) == 1


def test_a_gain_is_told_with_its_interval() -> None:
    before = {str(at): at / 40 for at in range(20)}
    after = {query: value + 0.1 for query, value in before.items()}
    gain = Gain.of(before, after, 0)
    assert gain.comparison == compare(after, before, 0)
    assert gain.told().startswith(
        "Cross-validated, on 20 train queries that were held out: better than the first stage: nDCG@10 from 0.2375 "
        "to 0.3375, +0.1000 (95 % interval +0.1000 to +0.1000, p = "
    )
    assert gain.to_json()["queries"] == 20 and gain.to_json()["interval"] == [0.1, 0.1]
