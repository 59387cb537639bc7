"""Signals of several kinds in one route: each kind is asked once, and every number lands in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from connector.heads.needs import Needs
from connector.heads.readouts import HeadSignal, passage_scores
from connector.heads.routes import Route, route_scores
from connector.heads.row_groups import ROW_GROUPS
from connector.heads.signals import Observed, signal_scores
from tests.heads.observing import Arrays

HEADS = ((0, 1), (2, 0))
LENGTHS = np.array([4, 6, 2])


@dataclass(frozen=True)
class Length:
    """A signal that is not attention: a passage's tokens, to some power."""

    power: int
    asked: ClassVar[list[int]] = []

    @property
    def needs(self) -> Needs:
        return Needs(groups=(), layers=(3,))

    @classmethod
    def scores(cls, signals: Sequence[Length], observed: Observed) -> npt.NDArray[np.float64]:
        cls.asked.append(len(signals))
        return np.stack([observed.lengths.astype(np.float64) ** own.power for own in signals])


def test_kinds_mix_in_any_order() -> None:
    rows = np.random.default_rng(3).random((2, len(ROW_GROUPS), LENGTHS.sum()), dtype=np.float32)
    observed = Arrays(rows, LENGTHS, HEADS)
    signals = (Length(1), HeadSignal(2, 0, "query"), Length(2), HeadSignal(0, 1, "share"))
    Length.asked.clear()
    found = signal_scores(signals, observed)
    assert Length.asked == [2]
    np.testing.assert_array_equal(found[[0, 2]], [LENGTHS, LENGTHS**2])
    np.testing.assert_array_equal(found[1], passage_scores(observed, "query")[1])
    np.testing.assert_array_equal(found[3], passage_scores(observed, "share")[0])
    route = Route(signals, (1.0,) * 4, 0.0)
    assert route.heads == HEADS and route.needs.layers == (3,)
    scores, _ = route_scores(route, found, ((0,), (1,), (2,)))
    np.testing.assert_allclose(scores, found.mean(axis=0))
