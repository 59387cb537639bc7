"""Is one ranking better than another? Paired tests over queries, by scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from connector.errors import DataError, MissingExtraError

__all__ = ["Comparison", "compare"]

# Resamples held in memory at a time.
_BATCH = 500


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
        MissingExtraError: scipy is not installed.
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
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "evaluate") from None
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=_BATCH,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Comparison(difference, float(test.pvalue), (float(interval.low), float(interval.high)))
