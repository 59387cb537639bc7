"""Does it pay that the query routes? ``python -m connector.studies.relevance.routing FOLDER…``.

One vector for all queries is compared with weights that depend on the query, on collections that neither saw. Two
places can be routed: the directions of the hidden states (a bilinear form with the query's own states) and the gates
of what is read from each layer and of the first stage (the product's router). Each is also fitted or asked with the
states of other queries of the same collection: what is left of a gain then is none of routing.

Reading the documents takes the time (6,300 queries: one and a half hours on two cores). What was read is kept: a run
that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from connector.backbone.open_reader import open_reader
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.routing.query_embedding import FEATURES, query_features
from connector.studies.relevance.command import study_options, write_report
from connector.studies.relevance.judged import Fit, Floats, Judged, Places, held_out, one_vector, whole_collections
from connector.studies.relevance.states import StudyQuery, study_queries, study_settings
from connector.training.cross_validation import choose_kappa, leave_one_out, measure
from connector.training.examples import Examples
from connector.training.fitting import Basis, FitOptions, fit_prior, fit_router
from connector.training.probes import fit_probe
from connector.training.static_heads import ideal_gain

__all__ = ["bilinear", "gates", "main", "others", "study"]

_STRENGTHS = (0.02, 0.04, 0.08, 0.16)
_RANK = 8
_COMPONENTS = 32
_STEPS = 60
_LEAST_DEVIATION = 1e-6
Vectors = npt.NDArray[np.float32]


def bilinear(judged: Judged, own: Vectors, strength: float, rank: int = _RANK) -> Fit:
    """Scores ``w x + (U x) (V e)``, with x a document's states and e the query's own, reduced.

    Args:
        judged: the windows.
        own: float32 [queries, d]: states of each query without a document.
        strength: of the penalty on the squares of w, U and V.
        rank: rows of U and V.
    """
    flat = judged.windows.states.flatten(2)

    def fit(train: Places, held: Places) -> Floats:
        vectors = torch.from_numpy(Basis.of(own[train], 0, _COMPONENTS).reduced(own).astype(np.float32))
        chosen = judged.windows.of(train.tolist())
        known = chosen.states.flatten(2)[chosen.there]
        mean, deviation = known.mean(dim=0), known.std(dim=0).clamp_min(_LEAST_DEVIATION)
        states, queries = (flat[train] - mean) / deviation, vectors[train]
        targets = chosen.grades / chosen.grades.sum(dim=1, keepdim=True)
        generator = torch.Generator().manual_seed(0)
        plain = torch.zeros(flat.shape[2], requires_grad=True)
        left = (torch.randn(flat.shape[2], rank, generator=generator) * 0.01).requires_grad_()
        right = (torch.randn(vectors.shape[1], rank, generator=generator) * 0.03).requires_grad_()
        optimizer = torch.optim.LBFGS([plain, left, right], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def scored(states: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
            return states @ plain + ((states @ left) * (queries @ right)[:, None]).sum(dim=2)

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            told = torch.log_softmax(scored(states, queries).masked_fill(~chosen.there, float("-inf")), dim=1)
            missed = -(targets * told.masked_fill(~chosen.there, 0.0)).sum(dim=1)
            penalty = plain.square().sum() + left.square().sum() + right.square().sum()
            total = (chosen.weights * missed).mean() + strength * penalty
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            return np.asarray(scored((flat[held] - mean) / deviation, vectors[held]).double().numpy())

    return fit


def others(judged: Judged, seed: int) -> Places:
    """For each query another one of its collection."""
    drawn, places, names = np.random.default_rng(seed), np.arange(len(judged)), np.array(judged.collections)
    for name in sorted(set(judged.collections)):
        own = drawn.permutation(np.flatnonzero(names == name))
        places[own] = np.roll(own, 1)
    return places


def gates(judged: Judged, embeddings: Vectors, strength: float) -> dict[str, Any]:
    """The product's router over what each layer's part of the probe says, and the first stage.

    Args:
        judged: the windows.
        embeddings: float32 [queries, d + features]: as ``QueryEmbedding`` makes them.
        strength: of the probe's penalty.
    """
    there = judged.windows.there.numpy()
    parts = np.zeros((len(judged), judged.windows.states.shape[2], there.shape[1]))
    for train, held in whole_collections(judged):
        weights = torch.from_numpy(fit_probe(judged.windows.of(train.tolist()), strength))
        parts[held] = torch.einsum("qdlh,lh->qld", judged.windows.states[held], weights).double().numpy()
    scales = np.mean([own[:, mask].std(axis=1) for own, mask in zip(parts, there, strict=True)], axis=0)
    scores = np.zeros_like(parts)
    for at, mask in enumerate(there):
        own = parts[at][:, mask] / scales[:, None]
        scores[at][:, mask] = own - own.mean(axis=1, keepdims=True)
    grades = judged.windows.grades.double().numpy()
    ideal = np.array([ideal_gain(row) for row in grades])
    examples = Examples(
        scores, judged.first_stage, grades, ideal, there, embeddings, len(FEATURES), judged.collections, scores
    )
    options = FitOptions(static_size=parts.shape[1])
    kappa, gains = choose_kappa(examples, options)
    found, values = measure(
        examples,
        lambda own: fit_router(own, options, 1.0),
        leave_one_out(examples),
        lambda own: fit_prior(own, options),
    )
    told = {"kappa": kappa, "gains": {str(one): gain for one, gain in gains.items()}}
    means = {"static": found.static, "routed": found.routed, "permuted": found.permuted}
    return {**told, **means, **judged.against(values[2], values[1])}


def study(queries: Sequence[StudyQuery], say: Callable[[str], None]) -> dict[str, Any]:
    """All rows: one vector and what the query routes, on collections that were held out one at a time.

    How strong a penalty is, is chosen for each on four parts of the collections.
    """
    judged = Judged.of([query.table for query in queries])
    own = np.stack([query.own.reshape(-1) for query in queries])
    of_others = own[others(judged, 0)]
    forms: Mapping[str, Callable[[float], Fit]] = {
        "one vector": lambda strength: one_vector(judged, strength),
        "bilinear": lambda strength: bilinear(judged, own, strength),
        "bilinear, states of other queries": lambda strength: bilinear(judged, of_others, strength),
    }
    rows: dict[str, Any] = {"first stage": judged.mean(judged.ndcg(judged.first_stage))}
    plain: Floats | None = None
    for name, form in forms.items():
        splits = whole_collections(judged, 4)
        tried = {one: judged.mean(judged.fused(held_out(judged, splits, form(one)))[1]) for one in _STRENGTHS}
        strength = max(tried, key=lambda one: tried[one])
        scores = held_out(judged, whole_collections(judged), form(strength))
        rows[name], fused = judged.row(scores, plain, strength=strength, tried=tried)
        plain = fused if plain is None else plain
        say(f"{name}: {rows[name]}")
    features = [query_features(query.table.query, query.table.first_stage.tolist()) for query in queries]
    embeddings = np.concatenate([own, np.stack(features)], axis=1).astype(np.float32)
    rows["gates"] = gates(judged, embeddings, rows["one vector"]["strength"])
    say(f"gates: {rows['gates']}")
    return rows


@click.command()
@study_options(queries=800)
def main(
    folders: tuple[Path, ...], queries: int, tokens: int, assignments: tuple[str, ...], out: Path | None
) -> None:
    """Compare one weight vector with weights that depend on the query; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    settings = study_settings(tokens, assignments)
    found = list(study_queries(open_reader(settings), folders, queries, settings, progress))
    progress.say(f"{len(found)} queries")
    write_report(out, study(found, progress.say), len(found), folders, tokens, assignments)


if __name__ == "__main__":
    main()
