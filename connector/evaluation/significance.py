"""Is one ranking better than another? Paired tests over queries, in numpy: the light install runs them too.

The tests hold the numbers against scipy's ``permutation_test`` and ``bootstrap``, which draw in the same way. scipy
itself would add 143 MB to an install of 313 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.errors import DataError

__all__ = ["Comparison", "compare"]

# Resamples held in memory at a time.
_BATCH = 500
# Sums of the same numbers in another order differ by rounding; they count as equal.
_ROUNDING = 2.2e-14

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ranking against another, over the same queries.

    Attributes:
        difference: mean over queries; above 0 where the first is better.
        p_value: two-sided paired randomization test.
        interval: 95 % bootstrap interval of the mean difference.
    """

    difference: float
    p_value: float
    interval: tuple[float, float]


def compare(
    a: Mapping[str, float],
    b: Mapping[str, float],
    seed: int = 0,
    *,
    permutations: int = 10_000,
    resamples: int = 10_000,
) -> Comparison:
    """Compare ``a`` with ``b``, query by query.

    Args:
        a, b: query id -> value of a measure; the same queries in both.
        seed: the same seed gives the same numbers.
        permutations: of the randomization test, which flips the signs of differences; where there are no more than
            so many, all are tried.
        resamples: of the bootstrap (percentiles).

    Raises:
        DataError: the queries differ, or there are none.
    """
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise DataError(f"two rankings over different queries ({odd[0]} is in one only) cannot be compared")
    if not a:
        raise DataError("there is no query to compare two rankings by")
    # In the order of ids, so that the order of a file does not change what the seed gives.
    differences = np.array([a[query] - b[query] for query in sorted(a)])
    difference = float(differences.mean())
    if len(differences) < 2 or not differences.any():
        return Comparison(difference, 1.0, (difference, difference))
    p_value = _p_value(differences, permutations, np.random.default_rng(seed))
    means = np.concatenate(list(_resampled_means(differences, resamples, np.random.default_rng(seed))))
    low, high = np.percentile(means, (2.5, 97.5))
    return Comparison(difference, p_value, (float(low), float(high)))


def _p_value(differences: Floats, permutations: int, rng: np.random.Generator) -> float:
    """Twice the share of the sign patterns whose mean is at least as far on the mean's own side."""
    observed = differences.mean()
    near = abs(_ROUNDING * observed)
    exact = 2 ** len(differences) <= permutations
    below = above = 0 if exact else 1
    tried = below
    for flipped in _flips(len(differences), permutations, exact, rng):
        means = np.where(flipped, -differences, differences).mean(axis=-1)
        below += int(np.count_nonzero(means <= observed + near))
        above += int(np.count_nonzero(means >= observed - near))
        tried += len(means)
    return min(1.0, 2 * min(below, above) / tried)


def _flips(count: int, permutations: int, exact: bool, rng: np.random.Generator) -> Iterator[npt.NDArray[np.bool_]]:
    """Whose sign is turned: bool [patterns, count], some patterns at a time."""
    if exact:
        for start in range(0, 2**count, _BATCH):
            numbers = np.arange(start, min(start + _BATCH, 2**count))
            yield (numbers[:, None] >> np.arange(count) & 1).astype(bool)
        return
    pairs = np.tile(np.arange(2), (_BATCH, count, 1))
    for start in range(0, permutations, _BATCH):
        yield rng.permuted(pairs, axis=-1)[: permutations - start, :, 0].astype(bool)


def _resampled_means(differences: Floats, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    count = len(differences)
    for start in range(0, resamples, _BATCH):
        yield differences[rng.integers(0, count, (min(_BATCH, resamples - start), count))].mean(axis=-1)
