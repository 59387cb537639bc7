"""Documents embedded without the query: ``python -m connector.studies.relevance.apart FOLDER… --keep FOLDER``.

A document's own hidden states, read once, meet the query's own in a bilinear form of low rank: a product of two short
vectors a document, which would make windows of thousands cheap. It is compared with the probe, which looks at the
query behind the document, on the same judged queries and on collections that neither saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from connector.backbone.open_reader import open_reader
from connector.backbone.reader import Reader
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.documents import document_text
from connector.statistics.head_tables import SearchedQuery
from connector.studies.relevance.command import study_options, write_report
from connector.studies.relevance.judged import Floats, Judged, best_held_out, held_out, one_vector, whole_collections
from connector.studies.relevance.routing import bilinear
from connector.studies.relevance.states import FIELDS, StudyQuery, searched_queries, study_queries, study_settings
from connector.training.train_signals import probe_layers

__all__ = ["embedded", "main", "study"]

_STRENGTHS = (0.02, 0.08, 0.32)
_RANKS = (8, 32)
_SHARES = (0.1, 0.25, 0.5)
# About 128 tokens.
_CHARACTERS = 600
Vectors = Mapping[str, npt.NDArray[np.float32]]


def embedded(reader: Reader, queries: Sequence[SearchedQuery], kept: Path) -> Vectors:
    """Own states of all hits: document id -> float32 [layers, hidden], mean of the tokens; kept in a file."""
    if kept.is_file():
        with np.load(kept) as file:
            return dict(file)
    layers = probe_layers(reader.runtime.shape.layers)
    texts = {hit.id: document_text(hit.fields, FIELDS)[:_CHARACTERS] for query in queries for hit in query.hits}
    found = {own: reader.embed(text, layers)[:, 0] for own, text in texts.items()}
    part = kept.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, **found)
    part.replace(kept)
    return found


def study(queries: Sequence[StudyQuery], vectors: Sequence[Vectors], say: Callable[[str], None]) -> dict[str, Any]:
    """All rows.

    Args:
        queries: with their states behind each document.
        vectors: for each query, own states of its documents.
        say: called with each row.
    """
    judged = Judged.of([query.table for query in queries])
    own = np.stack([query.own.reshape(-1) for query in queries])
    states = torch.zeros_like(judged.windows.states)
    for at, (query, known) in enumerate(zip(queries, vectors, strict=True)):
        for place, document in enumerate(query.table.ids):
            if judged.windows.there[at, place]:
                states[at, place] = torch.from_numpy(known[document])
    alone = replace(judged, windows=replace(judged.windows, states=states))
    splits, rows = whole_collections(judged, 4), {}
    probe = held_out(judged, splits, one_vector(judged, 0.08))
    rows["probe"], in_use = judged.row(probe)
    say(f"probe: {rows['probe']}")
    scored: dict[str, Floats] = {}
    for rank in _RANKS:
        scores, strength = best_held_out(alone, splits, _STRENGTHS, partial(bilinear, alone, own, rank=rank))
        name = f"apart, rank {rank}"
        scored[name] = scores
        rows[name], _ = judged.row(scores, in_use, strength=strength)
        say(f"{name}: {rows[name]}")
    best = max(scored, key=lambda name: float(rows[name]["fused"]))
    rows["probe and apart"] = judged.beside(probe, scored[best], in_use, _SHARES)
    say(f"probe and apart: {rows['probe and apart']}")
    return rows


@click.command()
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the states.")
@study_options(queries=150)
def main(
    folders: tuple[Path, ...], keep: Path, queries: int, tokens: int, assignments: tuple[str, ...], out: Path | None
) -> None:
    """Compare documents embedded by themselves with the probe; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    settings = study_settings(tokens, assignments)
    keep.mkdir(parents=True, exist_ok=True)
    reader = open_reader(settings)
    vectors: dict[str, Vectors] = {}
    for folder in folders:
        searched = searched_queries(folder, queries, settings)
        vectors[folder.name] = embedded(reader, searched, keep / f"{folder.name}-{queries}.npz")
        progress.say(f"{folder.name}: {len(vectors[folder.name])} documents")
    found = list(study_queries(reader, folders, queries, settings, progress))
    rows = study(found, [vectors[query.table.source.partition(":")[0]] for query in found], progress.say)
    write_report(out, rows, len(found), folders, tokens, assignments)


if __name__ == "__main__":
    main()
