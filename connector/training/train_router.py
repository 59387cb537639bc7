"""From head statistics to a router with its metadata: pool, query embedding, kappa, fit, and what it gains."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from connector.routing.metadata import EmbeddingRecipe, RouterMetadata, StaticSet
from connector.routing.query_embedding import QueryEmbedding
from connector.sections import Layout, ReadOut
from connector.statistics.head_tables import embedded_layers
from connector.training.cross_validation import Measured, choose_kappa, folds, leave_one_out, measure
from connector.training.examples import Examples, Pool, choose_pool, make_examples
from connector.training.fitting import FitOptions, fit_paper, fit_prior, fit_router
from connector.training.gain import Gain
from connector.training.labels import pseudo_labels
from connector.training.router import Router
from connector.training.static_heads import TrainQuery

__all__ = ["Backbone", "RouterOptions", "Trained", "candidate_embeddings", "train_router"]

_FOLDS = 5
# Real embeddings that travel with the router, for the verification of its export.
_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class Backbone:
    """What a router is bound to: see ``RouterMetadata``."""

    model: str
    fingerprint: str
    template: str
    layout: Layout
    layers: int


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """How a router is trained.

    Attributes:
        mode: ``listwise``, or ``paper`` (RouteHead as published, as far as it is).
        pool: K; (head, read-out) pairs that may be chosen.
        readouts: by which read-outs heads may be read.
        kappa: strength of routing; None: by cross-validation.
        fit: see ``FitOptions``.
        measured: whether the gains on held-out queries are measured; kappa is cross-validated in any case.
    """

    mode: Literal["listwise", "paper"] = "listwise"
    pool: int = 32
    readouts: tuple[ReadOut, ...] = ("query",)
    kappa: float | None = None
    fit: FitOptions = FitOptions()
    measured: bool = True


@dataclass(frozen=True)
class Trained:
    """A trained router.

    Attributes:
        router, metadata: the router.
        cross_validated: on held-out train queries, folds by query; None where it was not measured.
        left_out: the same, whole collections left out; None where there is only one.
        kappas: each kappa's gain over 0 (nDCG@10) in inner cross-validation.
        gain: over the first stage, on held-out train queries; None where it was not measured.
    """

    router: Router
    metadata: RouterMetadata
    cross_validated: Measured | None
    left_out: Measured | None
    kappas: dict[float, float]
    gain: Gain | None = None


def candidate_embeddings(layers: int) -> tuple[QueryEmbedding, ...]:
    """Query embeddings that training chooses from: middle and late layers, the query alone or in the prompt."""
    kept = embedded_layers(layers)
    deep, middle = kept[-1], kept[len(kept) // 2]
    return (
        QueryEmbedding("query", (middle,), "mean"),
        QueryEmbedding("query", (deep,), "mean"),
        QueryEmbedding("prompt", (deep,), "mean"),
    )


def train_router(
    queries: Sequence[TrainQuery],
    backbone: Backbone,
    options: RouterOptions,
    record: dict[str, Any],
    say: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Train a router, and measure it on held-out train queries.

    The same queries, options and versions give the same router, bit for bit: everything runs on one thread.

    Args:
        queries: judged train queries with embeddings in their tables.
        backbone: what the router is bound to.
        options: see ``RouterOptions``.
        record: what is told of the training (collections, seeds, command).
        say: called with what is being done.

    Raises:
        DataError: no queries, or tables without embeddings.
    """
    with _one_thread():
        ordered = sorted(queries, key=lambda query: (query.collection, query.table.query_id))
        pool = choose_pool(ordered, options.pool, options.readouts)
        if options.mode == "paper":
            return _train_paper(ordered, pool, backbone, options, record, say)
        say("choosing the query embedding and kappa")
        embedding, kappa, kappas = _choose(ordered, pool, backbone.layers, options)
        examples = make_examples(ordered, pool, embedding, backbone.layers)
        prior = fit_prior(examples, options.fit)
        utilities = None
        if options.fit.auxiliary > 0:
            utilities = pseudo_labels(
                "utility",
                examples,
                most_heads=options.fit.most_heads,
                static=prior[:-1].tolist(),
                first_stage_gate=float(prior[-1]),
                seed=options.fit.seed,
            )
        router = fit_router(examples, options.fit, kappa, utilities, prior)
        say("measuring on held-out queries")

        def fit(own: Examples) -> Router:
            return fit_router(own, options.fit, kappa)

        def static(own: Examples) -> Any:
            return fit_prior(own, options.fit)

        return _trained(
            examples, router, prior, pool, embedding, kappa, kappas, backbone, options, record, fit, static
        )


def _train_paper(
    queries: Sequence[TrainQuery],
    pool: Pool,
    backbone: Backbone,
    options: RouterOptions,
    record: dict[str, Any],
    say: Callable[[str], None],
) -> Trained:
    # As published: hidden states only, no first stage.
    embedding = replace(candidate_embeddings(backbone.layers)[1], features=False)
    examples = make_examples(queries, pool, embedding, backbone.layers)
    size = options.fit.most_heads
    static_gates = np.zeros(len(pool.members) + 1)
    static_gates[:size] = 1 / min(size, len(pool.members))

    def fit(own: Examples) -> Router:
        labels = pseudo_labels(
            "search", own, most_heads=size, static=static_gates[:-1].tolist(), first_stage_gate=0.0
        )
        return fit_paper(own, labels, options.fit, 0.0)

    say("searching the best heads of each query")
    router = fit(examples)
    say("measuring on held-out queries")
    return _trained(
        examples,
        router,
        static_gates,
        pool,
        embedding,
        1.0,
        {},
        backbone,
        options,
        record,
        fit,
        lambda own: static_gates,
    )


def _choose(
    queries: Sequence[TrainQuery], pool: Pool, layers: int, options: RouterOptions
) -> tuple[QueryEmbedding, float, dict[float, float]]:
    best: tuple[float, QueryEmbedding, float, dict[float, float]] | None = None
    for embedding in candidate_embeddings(layers):
        examples = make_examples(queries, pool, embedding, layers)
        if len(examples) < 2 * _FOLDS:
            # Too few to tell anything: the static set.
            return embedding, options.kappa or 0.0, {}
        kappa, gains = choose_kappa(examples, options.fit, seed=options.fit.seed)
        if options.kappa is not None:
            kappa = options.kappa
        gain = gains.get(kappa, 0.0)
        # The cheaper embedding comes first and stays where another is no better.
        if best is None or gain > best[0]:
            best = (gain, embedding, kappa, gains)
    assert best is not None
    return best[1], best[2], best[3]


def _trained(
    examples: Examples,
    router: Router,
    prior: Any,
    pool: Pool,
    embedding: QueryEmbedding,
    kappa: float,
    kappas: dict[float, float],
    backbone: Backbone,
    options: RouterOptions,
    record: dict[str, Any],
    fit: Callable[[Examples], Router],
    static: Callable[[Examples], Any],
) -> Trained:
    seed = options.fit.seed
    crossed = left_out = gain = None
    if options.measured:
        crossed, values = measure(examples, fit, folds(examples, _FOLDS, seed), static, seed=seed)
        before, after = (
            {str(at): float(one) for at, one in enumerate(values[row])} for row in (0, 2)
        )  # fmt: skip
        gain = Gain.of(before, after, seed)
    if options.measured and len({source.partition(":")[0] for source in examples.sources}) > 1:
        left_out, _ = measure(examples, fit, leave_one_out(examples), static, seed=seed)
    samples = examples.embeddings[:: max(len(examples) // _SAMPLES, 1)][:_SAMPLES]
    router.samples = torch.from_numpy(samples.copy())
    members = np.flatnonzero(prior[:-1] > 0)
    members = members[np.argsort(-prior[members], kind="stable")]
    gains: dict[str, Any] = {"measure": "nDCG@10 on held-out train queries, fused"}
    if crossed is not None:
        gains["folds"] = crossed.to_json()
    if gain is not None:
        gains["gain"] = gain.to_json()
    if left_out is not None:
        gains["collections left out"] = left_out.to_json()
    if kappas:
        gains["gain of each kappa over 0"] = {f"{k:g}": round(gain, 4) for k, gain in kappas.items()}
    metadata = RouterMetadata(
        model=backbone.model,
        fingerprint=backbone.fingerprint,
        layout=backbone.layout,
        template=backbone.template,
        pool=pool.members,
        scales=pool.scales,
        most_heads=router.most_heads,
        activation=router.activation,
        embedding=EmbeddingRecipe(
            form=embedding.form,
            layers=embedding.layers,
            pooling=embedding.pooling,
            features=embedding.features,
            dimension=examples.embeddings.shape[1],
        ),
        kappa=kappa,
        deepest_layer=max(layer for layer, _, _ in pool.members),
        static=StaticSet(
            members=members.tolist(), gates=prior[members].tolist(), first_stage=float(max(prior[-1], 0.0))
        ),
        training={
            **record,
            "queries": dict(Counter(examples.sources)),
            "mode": options.mode,
            "options": {**asdict(options.fit), "pool": options.pool, "readouts": list(options.readouts)},
        },
        gains=gains,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return Trained(router, metadata, crossed, left_out, kappas, gain)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
