"""Training a router from head statistics, and measuring on train queries whether routing helps.

Everything is measured on queries that were held out: folds by query, and one source (collection) left out at a time.
kappa, the strength of the query's own part, is chosen by inner cross-validation. It is 0 unless routing is better
than the static set by more than one standard error, and better than itself with the embeddings of other queries by
more than two: a gain that stays without the query is none of routing. Then the router is fitted to all queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from connector.training.examples import Examples
from connector.training.fitting import FitOptions, fit_prior, fit_router
from connector.training.labels import utilities
from connector.training.router import Router

__all__ = ["KAPPAS", "Measured", "choose_kappa", "folds", "leave_one_out", "measure", "route_examples"]

KAPPAS = (0.0, 0.25, 0.5, 1.0)
_FOLDS = 5
_PERMUTATIONS = 3
# Several embeddings and strengths are tried: one standard error is exceeded by chance.
_ERRORS = 2.0

Floats = npt.NDArray[np.float64]
Fit = Callable[[Examples], Router]


@dataclass(frozen=True, slots=True)
class Measured:
    """nDCG@10 on held-out train queries, mean over sources.

    Attributes:
        first_stage: the order before reranking.
        static: the prior alone, fused.
        routed: the router, fused.
        permuted: the router with the embeddings of other queries of the same source, fused.
        by_source: source -> (first_stage, static, routed).
    """

    first_stage: float
    static: float
    routed: float
    permuted: float
    by_source: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """JSON-ready, rounded to four places."""
        means = {name: round(getattr(self, name), 4) for name in ("first_stage", "static", "routed", "permuted")}
        return {**means, "by_source": {name: [round(v, 4) for v in row] for name, row in self.by_source.items()}}


def route_examples(router: Router, examples: Examples, embeddings: npt.NDArray[np.float32] | None = None) -> Floats:
    """nDCG@10 of each query, routed and fused: float64 [queries].

    Args:
        router: the router.
        examples: queries.
        embeddings: float32 [queries, d], instead of the queries' own.
    """
    gates, _, first = router.gates(examples.embeddings if embeddings is None else embeddings)
    return examples.ndcg(examples.fused(gates.astype(np.float64), first.astype(np.float64)))


def folds(examples: Examples, count: int, seed: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(train, held out) indices, each query held out once; every fold has its share of every source."""
    drawn = np.random.default_rng(seed)
    sources = np.array(examples.sources)
    fold = np.zeros(len(examples), dtype=np.int64)
    offset = 0
    for source in sorted(set(examples.sources)):
        own = drawn.permutation(np.flatnonzero(sources == source))
        fold[own] = (np.arange(len(own)) + offset) % count
        offset += len(own)
    for number in range(count):
        if (fold == number).any() and (fold != number).any():
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def leave_one_out(examples: Examples) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(train, held out) indices: all queries of one collection are held out, whatever their split."""
    collections = np.array([source.partition(":")[0] for source in examples.sources])
    for name in sorted(set(collections.tolist())):
        if (collections != name).any():
            yield np.flatnonzero(collections != name), np.flatnonzero(collections == name)


def choose_kappa(
    examples: Examples, options: FitOptions, *, kappas: Sequence[float] = KAPPAS, seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The strength of routing that held-out queries ask for.

    Args:
        examples: train queries.
        options: see ``FitOptions``.
        kappas: candidates; 0 is always one.
        seed: of the folds.

    Returns:
        kappa, and each candidate's gain over 0 (nDCG@10). 0 where the gain may be chance: see the module's text.
    """
    candidates = sorted({0.0, *kappas})
    values = {kappa: np.zeros(len(examples)) for kappa in candidates}
    permuted = {kappa: np.zeros(len(examples)) for kappa in candidates}
    drawn = np.random.default_rng(seed)
    for train, held in folds(examples, _FOLDS, seed):
        own, out = examples.take(train), examples.take(held)
        prior = fit_prior(own, options)
        labels = _utilities(own, prior, options)
        full = fit_router(own, options, 1.0, labels, prior)
        others = [out.embeddings[_shuffled(out, drawn)] for _ in range(_PERMUTATIONS)]
        for kappa in candidates:
            full.kappa.fill_(kappa)
            values[kappa][held] = route_examples(full, out)
            for other in others:
                permuted[kappa][held] += route_examples(full, out, other) / _PERMUTATIONS
    gains: dict[float, float] = {}
    best = 0.0
    for kappa in candidates:
        gains[kappa], error = _mean_and_error((values[kappa] - values[0.0]) * examples.weights)
        routing, routing_error = _mean_and_error((values[kappa] - permuted[kappa]) * examples.weights)
        sure = gains[kappa] > error and routing > _ERRORS * routing_error
        if kappa > 0 and sure and gains[kappa] > gains[best]:
            best = kappa
    return best, gains


def _mean_and_error(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def measure(
    examples: Examples,
    fit: Fit,
    splits: Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    static: Callable[[Examples], Floats],
    *,
    seed: int = 0,
    permutations: int = 5,
) -> tuple[Measured, Floats]:
    """What a way of training reaches on held-out queries.

    Args:
        examples: train queries.
        fit: trains a router.
        splits: (train, held out) indices.
        static: fits the prior that routing is compared with.
        seed: of the permutations.
        permutations: of the embeddings among the held-out queries of a source; their mean counts.

    Returns:
        The means, and float64 [4, queries]: first stage, static, routed, permuted.
    """
    values = np.zeros((4, len(examples)))
    values[0] = examples.ndcg(examples.first_stage)
    drawn = np.random.default_rng(seed)
    for train, held in splits:
        own, out = examples.take(train), examples.take(held)
        prior = static(own)
        gates = np.tile(prior[:-1], (len(out), 1))
        values[1, held] = out.ndcg(out.fused(gates, np.full(len(out), prior[-1])))
        router = fit(own)
        values[2, held] = route_examples(router, out)
        for _ in range(permutations):
            values[3, held] += route_examples(router, out, out.embeddings[_shuffled(out, drawn)]) / permutations
    by_source: dict[str, tuple[float, float, float]] = {}
    for source in sorted(set(examples.sources)):
        own_rows = np.array([name == source for name in examples.sources])
        plain, fixed, routed = (float(row[own_rows].mean()) for row in values[:3])
        by_source[source] = (plain, fixed, routed)
    means = [examples.mean(row) for row in values]
    return Measured(means[0], means[1], means[2], means[3], by_source), values


def _shuffled(examples: Examples, drawn: np.random.Generator) -> npt.NDArray[np.int64]:
    """Another query of the same source for each query: a random cycle, so that none keeps its own."""
    places = np.arange(len(examples))
    sources = np.array(examples.sources)
    for source in sorted(set(examples.sources)):
        own = drawn.permutation(np.flatnonzero(sources == source))
        places[own] = np.roll(own, 1)
    return places


def _utilities(examples: Examples, prior: Floats, options: FitOptions) -> Floats | None:
    if options.auxiliary == 0:
        return None
    return utilities(examples, prior[:-1].tolist(), float(prior[-1]), options.seed)
