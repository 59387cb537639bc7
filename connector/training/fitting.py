"""Fitting a router to train examples: a gate for each member of the pool, and what the query changes about it.

The prior and the residual are fitted in turn, each with Adam on all examples at once:

* prior ``b``: listwise softmax cross-entropy of the fused ranking against the grades, with a ridge towards the mean
  of the best members and an L1 penalty on the gates (the sparsity regularizer);
* residual ``<e_h, P x>``: the same loss, a ridge and the L1 penalty, and (``auxiliary``) squared error to the centred
  utilities. ``P`` works on the features and the leading principal components of the hidden states, for there are more
  dimensions than queries.

Steps take turns between the instruction as it is served and its other wording.

``paper`` instead fits sigmoid gates to multi-hot pseudo labels by binary cross-entropy with an L1 penalty on the mean
gate (RouteHead, arXiv 2604.24608), without a static set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from connector.training.examples import Examples, source_weight
from connector.training.router import CLIP, Router
from connector.training.static_heads import WEIGHTS

__all__ = ["Basis", "FitOptions", "fit_paper", "fit_prior", "fit_residual", "fit_router"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Hyper-parameters, chosen by cross-validation on train queries.

    Attributes:
        most_heads: P; most members with a gate above 0.
        static_size: the prior is drawn to the mean of so many members, the best by themselves.
        prior_ridge: how strongly.
        rank: dimension of head embeddings.
        components: principal components of the hidden states that are used.
        sparsity: weight of the L1 penalty on gates.
        ridge: weight of the squared residual.
        auxiliary: weight of the utilities in the residual's loss.
        steps: Adam steps of each fit.
        rate: learning rate.
        temperature: that fitting of the listwise softmax starts from, in standard deviations of the fused score.
        seed: of the initial head embeddings.
    """

    most_heads: int = 16
    static_size: int = 16
    prior_ridge: float = 0.03
    rank: int = 4
    components: int = 8
    sparsity: float = 0.01
    ridge: float = 3.0
    auxiliary: float = 0.0
    steps: int = 200
    rate: float = 0.01
    temperature: float = 2.0
    seed: int = 0


# The first stage's gate that fitting starts from.
_FIRST_STAGE = 1.5


@dataclass(frozen=True)
class _Tensors:
    scores: torch.Tensor
    other: torch.Tensor
    first: torch.Tensor
    gains: torch.Tensor
    present: torch.Tensor
    weights: torch.Tensor
    made: torch.Tensor

    @classmethod
    def of(cls, examples: Examples) -> _Tensors:
        gains = examples.grades / np.maximum(examples.grades.sum(axis=1, keepdims=True), 1e-12)
        arrays = (examples.scores, examples.other_scores, examples.first_stage, gains)
        scores, other, first, target = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
        weights = torch.from_numpy((examples.weights / len(examples)).astype(np.float32))
        names = sorted({source for source in examples.sources if source_weight(source) < 1})
        if len(names) == len(set(examples.sources)):
            # Nothing else is there to learn from.
            names = []
        made = torch.tensor([[source == name for name in names] for source in examples.sources], dtype=torch.float32)
        return cls(scores, other, first, target, torch.from_numpy(examples.present), weights, made)

    def first_gates(self, shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The first stage's gates in the loss: float32 [queries].

        How well a first stage does on queries that were made of documents is an artefact of how they were made. They
        teach which heads are right, not how far the first stage is to be trusted: beside judged sources, each of them
        has a gate of its own here, which is not kept.

        Args:
            shared: float32 [queries] or a scalar: the gates that are learned.
            own: float32 [made sources].
        """
        is_made = self.made.sum(dim=1)
        return torch.relu(shared) * (1 - is_made) + self.made @ torch.relu(own)

    @property
    def made_gates(self) -> torch.Tensor:
        """Where the gates of made sources start."""
        return torch.full((self.made.shape[1],), _FIRST_STAGE)

    def loss(
        self, gates: torch.Tensor, first_gates: torch.Tensor, temperature: torch.Tensor, *, other: bool
    ) -> torch.Tensor:
        heads = torch.einsum("qm,qmd->qd", gates, self.other if other else self.scores)
        count = self.present.sum(dim=1, keepdim=True)
        centred = (heads - (heads * self.present).sum(dim=1, keepdim=True) / count) * self.present
        deviation = (centred.square().sum(dim=1, keepdim=True) / count + 1e-6).sqrt()
        fused = centred / deviation + first_gates[:, None] * self.first
        logits = (fused / temperature).masked_fill(~self.present, float("-inf"))
        likelihood = torch.log_softmax(logits, dim=1).masked_fill(~self.present, 0.0)
        return -(self.weights * (self.gains * likelihood).sum(dim=1)).sum()


def fit_prior(examples: Examples, options: FitOptions) -> Floats:
    """One gate for each member and one for the first stage, the same for every query: float64 [members + 1].

    At most ``most_heads`` of the members' gates are above 0; they sum up to 1.
    """
    tensors = _Tensors.of(examples)
    members = examples.scores.shape[1]
    size = min(options.static_size, members)
    base = torch.zeros(members)
    base[:size] = 1 / size
    change = torch.zeros(members).requires_grad_()
    first = torch.tensor(_FIRST_STAGE).requires_grad_()
    # Learned beside the gates: else how sharp the ranking is would decide how far the first stage is trusted.
    cooling = torch.tensor(0.0).requires_grad_()
    own = tensors.made_gates.requires_grad_()
    optimizer = torch.optim.Adam([change, first, cooling, own], lr=options.rate * 2)
    for step in range(options.steps):
        optimizer.zero_grad()
        gates = torch.relu(base + change / size)
        loss = tensors.loss(
            gates.expand(len(examples), -1),
            tensors.first_gates(first, own),
            options.temperature * cooling.exp(),
            other=step % 2 == 1,
        )
        loss = loss + options.prior_ridge * change.square().sum() / size + options.sparsity * gates.sum()
        loss.backward()
        optimizer.step()
    found = torch.relu(base + change / size).detach().double().numpy()
    if not found.any():
        found[0] = 1.0
    found[np.argsort(-found, kind="stable")[options.most_heads :]] = 0.0
    found /= found.sum()
    return np.append(found, (max(first.item(), 0.0) + _best_first_stage_gate(examples, found)) / 2)


def _best_first_stage_gate(examples: Examples, gates: Floats) -> float:
    """The first stage's gate with the best nDCG@10 on judged sources.

    Likelihood asks for less of the first stage than nDCG does; the prior takes the middle. In cross-validation on
    train queries nDCG hardly changes between the two, and the more the first stage counts, the less a collection can
    lose.
    """
    judged = [at for at, source in enumerate(examples.sources) if source_weight(source) == 1]
    own = examples.take(judged) if judged else examples
    every = np.tile(gates, (len(own), 1))
    means = [own.mean(own.ndcg(own.fused(every, np.full(len(own), weight)))) for weight in WEIGHTS]
    # The first of equals: the smaller gate.
    return WEIGHTS[int(np.argmax(means))]


def fit_residual(
    examples: Examples, prior: Floats, options: FitOptions, utilities: Floats | None = None
) -> tuple[Basis, Floats, Floats]:
    """What the query changes about the gates.

    Args:
        examples: train queries.
        prior: float64 [members + 1].
        options: see ``FitOptions``.
        utilities: float64 [queries, members], for ``auxiliary``.

    Returns:
        The basis of the embeddings, the projection [d, rank], and the head embeddings [members + 1, rank].
    """
    tensors = _Tensors.of(examples)
    basis = Basis.of(examples.embeddings, examples.features, options.components)
    inputs = torch.from_numpy(basis.reduced(examples.embeddings).astype(np.float32))
    generator = torch.Generator().manual_seed(options.seed)
    base = torch.from_numpy(prior.astype(np.float32))
    members = len(prior) - 1
    # A residual of 1 moves a member's gate by the largest of the prior, the first stage's by 1.
    unit = torch.full((members + 1,), float(prior[:members].max()))
    unit[members] = 1.0
    weight = (torch.randn(inputs.shape[1], options.rank, generator=generator) * 0.1).requires_grad_()
    heads = (torch.randn(members + 1, options.rank, generator=generator) * 0.01).requires_grad_()
    cooling = torch.tensor(0.0).requires_grad_()
    own = tensors.made_gates.requires_grad_()
    optimizer = torch.optim.Adam([weight, heads, cooling, own], lr=options.rate)
    target = None
    if utilities is not None and options.auxiliary > 0:
        centred = utilities - utilities.mean(axis=0)
        target = torch.from_numpy((centred / max(float(centred.std()), 1e-9)).astype(np.float32))
    for step in range(options.steps):
        optimizer.zero_grad()
        residual = inputs @ weight @ heads.T
        logits = base + residual * unit
        # A gate a little below 0 still learns: else no query could ever switch a head on.
        gates = torch.nn.functional.leaky_relu(logits[:, :members], 0.01)
        loss = tensors.loss(
            gates,
            tensors.first_gates(logits[:, members], own),
            options.temperature * cooling.exp(),
            other=step % 2 == 1,
        )
        loss = loss + options.ridge * residual.square().mean()
        loss = loss + options.sparsity * torch.relu(logits[:, :members]).sum(dim=1).mean()
        if target is not None:
            loss = loss + options.auxiliary * (residual[:, :members] - target).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    projection = basis.rows @ weight.detach().double().numpy()
    return basis, projection, (heads * unit[:, None]).detach().double().numpy()


def fit_router(
    examples: Examples,
    options: FitOptions,
    kappa: float,
    utilities: Floats | None = None,
    prior: Floats | None = None,
) -> Router:
    """A router with relu gates; with ``kappa`` 0 it is its static set."""
    prior = fit_prior(examples, options) if prior is None else prior
    if kappa == 0:
        basis = Basis.of(examples.embeddings, examples.features, 1)
        projection = np.zeros((examples.embeddings.shape[1], options.rank))
        heads = np.zeros((len(prior), options.rank))
    else:
        basis, projection, heads = fit_residual(examples, prior, options, utilities)
    return _router(basis, projection, heads, prior, kappa, options, "relu")


def fit_paper(examples: Examples, labels: Floats, options: FitOptions, first_stage_gate: float) -> Router:
    """A router fitted to multi-hot labels by binary cross-entropy, with L1 on the mean gate.

    Args:
        examples: train queries.
        labels: float64 [queries, members], 0 or 1.
        options: see ``FitOptions``.
        first_stage_gate: the same for every query; the paper has none.
    """
    basis = Basis.of(examples.embeddings, examples.features, len(examples))
    inputs = torch.from_numpy(basis.reduced(examples.embeddings).astype(np.float32))
    target = torch.from_numpy(labels.astype(np.float32))
    weights = torch.from_numpy(examples.weights.astype(np.float32))
    generator = torch.Generator().manual_seed(options.seed)
    members = labels.shape[1]
    weight = (torch.randn(inputs.shape[1], options.rank, generator=generator) * 0.1).requires_grad_()
    heads = (torch.randn(members, options.rank, generator=generator) * 0.1).requires_grad_()
    bias = torch.zeros(members).requires_grad_()
    optimizer = torch.optim.Adam([weight, heads, bias], lr=options.rate)
    for _ in range(options.steps):
        optimizer.zero_grad()
        logits = inputs @ weight @ heads.T + bias
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
        loss = (weights * entropy).mean() + options.sparsity * torch.sigmoid(logits).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    prior = np.append(bias.detach().double().numpy(), first_stage_gate)
    embeddings = np.vstack([heads.detach().double().numpy(), np.zeros((1, options.rank))])
    return _router(basis, basis.rows @ weight.detach().double().numpy(), embeddings, prior, 1.0, options, "binary")


@dataclass(frozen=True)
class Basis:
    """How embeddings are standardized, and the few directions of them that are used.

    Attributes:
        centre, spread: float64 [d].
        rows: float64 [d, directions]: leading principal components of the hidden states, at unit variance, and the
            features as they are.
    """

    centre: Floats
    spread: Floats
    rows: Floats

    @classmethod
    def of(cls, embeddings: npt.NDArray[np.float32], features: int, components: int) -> Basis:
        """Of the train queries' embeddings float32 [queries, d], the last ``features`` of which are features."""
        values = embeddings.astype(np.float64)
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, values, 0).sum(axis=0) / count
        deviation = np.sqrt((np.where(known, values - centre, 0) ** 2).sum(axis=0) / count)
        spread = np.where(deviation > 1e-6, deviation, 1.0)
        found = cls(centre, spread, np.zeros((0, 0)))
        hidden = values.shape[1] - features
        states = found._standard(values)[:, :hidden]
        _, strengths, rows = np.linalg.svd(states, full_matrices=False)
        most = min(components, max(int((strengths > strengths[0] * 1e-4).sum()), 1), len(states))
        rows = rows[:most]
        # The sign of a singular vector is arbitrary: the largest entry is made positive, so that machines agree.
        rows = rows * np.sign(rows[np.arange(most), np.abs(rows).argmax(axis=1)])[:, None]
        scale = np.maximum(strengths[:most] / np.sqrt(len(states)), 1e-9)
        basis = np.zeros((values.shape[1], most + features))
        basis[:hidden, :most] = rows.T / scale
        basis[hidden:, most:] = np.eye(features)
        return cls(centre, spread, basis)

    def _standard(self, embeddings: Floats) -> Floats:
        # As the router does it.
        standard = np.clip((embeddings - self.centre) / self.spread, -CLIP, CLIP)
        return np.where(np.isnan(standard), 0.0, standard)

    def reduced(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """float64 [queries, directions]."""
        return np.asarray(self._standard(embeddings.astype(np.float64)) @ self.rows)


def _router(
    basis: Basis,
    projection: Floats,
    heads: Floats,
    prior: Floats,
    kappa: float,
    options: FitOptions,
    activation: Literal["relu", "binary"],
) -> Router:
    members = len(prior) - 1
    router = Router(
        len(basis.centre), projection.shape[1], members, min(options.most_heads, members), activation=activation
    )
    values = {
        "center": basis.centre,
        "spread": basis.spread,
        "projection": projection,
        "head_embeddings": heads,
        "prior": prior,
        "kappa": np.array(kappa),
    }
    with torch.no_grad():
        for name, value in values.items():
            getattr(router, name).copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
    return router
