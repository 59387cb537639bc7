"""Can a larger LLM teach a smaller one's probe? ``python -m connector.studies.relevance.distilled FOLDER…``.

Half of the queries of each collection are judged, the others only asked. A larger model's probe learns from the
judged half, and says how likely each document of the other half is the one. A smaller model's probe learns from that,
beside the judgments or instead of them. All are measured on collections whose judgments neither saw. What was read is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

from connector.backbone.open_reader import open_reader
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.heads.needs import Needs
from connector.studies.relevance.command import study_options, write_report
from connector.studies.relevance.judged import Fit, Floats, Judged, Places, best_held_out, whole_collections
from connector.studies.relevance.states import study_settings, study_tables
from connector.training.probes import fit_probe
from connector.training.train_signals import probe_layers

__all__ = ["Lesson", "main", "study"]

_STRENGTHS = (0.04, 0.08, 0.16, 0.32)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a probe learns from.

    Attributes:
        judged: judgments of the judged half of other collections.
        told: what the larger model says of the other half of other collections.
        own: what it says of half of the queries that are ranked; the other half is ranked then, in turns.
        all: judgments of both halves, which nobody has who needs a teacher.
    """

    judged: bool = False
    told: bool = False
    own: bool = False
    all: bool = False


_LESSONS: Mapping[str, Lesson] = {
    "judgments of one half": Lesson(judged=True),
    "what the larger one says of the other half": Lesson(told=True),
    "both": Lesson(judged=True, told=True),
    "judgments of one half, and what it says of the collection's own queries": Lesson(judged=True, own=True),
    "all three": Lesson(judged=True, told=True, own=True),
    "judgments of both halves": Lesson(all=True),
}


def study(small: Judged, large: Judged, say: Callable[[str], None]) -> dict[str, Any]:
    """All rows; each of the small model's is compared with its first one.

    Args:
        small, large: the same windows in the same order, as either model sees them.
        say: called with each row.
    """
    rows: dict[str, Any] = {"first stage": {"fused": small.mean(small.ndcg(small.first_stage))}}
    splits = whole_collections(small, 4)
    scores, strength = best_held_out(large, splits, _STRENGTHS, lambda own: _teacher(large, own))
    rows["the larger one, judgments of one half"], _ = large.row(scores, strength=strength)
    compared: Floats | None = None
    for name, lesson in _LESSONS.items():

        def taught(own: float, lesson: Lesson = lesson) -> Fit:
            return _pupil(small, large, lesson, strength, own)

        scores, chosen = best_held_out(small, splits, _STRENGTHS, taught)
        rows[name], fused = small.row(scores, compared, strength=chosen)
        compared = fused if compared is None else compared
    for name, row in rows.items():
        say(f"{name}: {row}")
    return rows


def _halves(judged: Judged, places: Places) -> tuple[Places, Places]:
    """Every second query of each collection, and the others."""
    seen: dict[str, int] = {}
    first = []
    for at in places.tolist():
        name = judged.collections[at]
        seen[name] = seen.get(name, 0) + 1
        first.append(seen[name] % 2 == 1)
    mask = np.array(first, dtype=np.bool_)
    return places[mask], places[~mask]


def _scores(judged: Judged, places: Places, weights: Any) -> torch.Tensor:
    """float32 [places, documents]."""
    return torch.einsum("qdlh,lh->qd", judged.windows.states[places], torch.from_numpy(weights))


def _teacher(large: Judged, strength: float) -> Fit:
    """Learns from the judged half."""

    def fit(train: Places, held: Places) -> Floats:
        known, _ = _halves(large, train)
        weights = fit_probe(large.windows.of(known.tolist()), strength)
        return np.asarray(_scores(large, held, weights).double().numpy())

    return fit


def _pupil(small: Judged, large: Judged, lesson: Lesson, teachers: float, strength: float) -> Fit:
    """Learns from a lesson; the penalties are the teacher's and its own."""

    def fit(train: Places, held: Places) -> Floats:
        known, asked = _halves(small, train)
        weights = fit_probe(large.windows.of(known.tolist()), teachers)
        judged = train if lesson.all else known if lesson.judged else train[:0]
        told = asked if lesson.told else train[:0]
        found = np.zeros((len(held), small.first_stage.shape[1]))
        one, other = _halves(small, held)
        for ranked, spare in ((one, other), (other, one)) if lesson.own else ((held, held[:0]),):
            learned = _learn(small, large, judged, np.concatenate([told, spare]), weights, strength)
            found[np.isin(held, ranked)] = _scores(small, ranked, learned).double().numpy()
        return found

    return fit


def _learn(small: Judged, large: Judged, judged: Places, told: Places, teacher: Any, strength: float) -> Any:
    """A probe of the small model: float32 [layers, hidden].

    Args:
        small, large: all windows.
        judged: queries whose judgments it sees.
        told: queries of which it sees what the teacher says.
        teacher: float32 [layers, hidden]: the larger model's probe.
        strength: of the penalty.
    """
    own = small.windows.of([*judged.tolist(), *told.tolist()])
    there = small.windows.there[told]
    # What the teacher's own fit took for the chance that a document is the one to find.
    chances = torch.softmax(_scores(large, told, teacher).masked_fill(~there, float("-inf")), dim=1)
    return fit_probe(replace(own, grades=torch.cat([small.windows.grades[judged], chances])), strength)


@click.command()
@click.option("--teacher", default="qwen2.5-coder-0.5b", show_default=True, help="The larger model.")
@study_options(queries=40)
def main(
    folders: tuple[Path, ...],
    teacher: str,
    queries: int,
    tokens: int,
    assignments: tuple[str, ...],
    out: Path | None,
) -> None:
    """Teach the configured model's probe by a larger one; FOLDERS are judged collections."""
    if len(folders) < 2:
        raise click.UsageError("FOLDERS: give two collections at least: each is measured by what others taught")
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    judged = []
    for given in (assignments, (*assignments, f"backbone.model={teacher}")):
        settings = study_settings(tokens, given)
        reader = open_reader(settings)
        needs = Needs(groups=(), layers=probe_layers(reader.runtime.shape.layers))
        judged.append(Judged.of(list(study_tables(reader, folders, queries, settings, needs, progress))))
    rows = study(judged[0], judged[1], progress.say)
    write_report(out, {"teacher": {"model": teacher}, **rows}, len(judged[0]), folders, tokens, assignments)


if __name__ == "__main__":
    main()
