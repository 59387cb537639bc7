"""Attention weighed by the values it moves: ``python -m connector.studies.relevance.attention FOLDER…``.

A token that much attention goes to may add little: what a head moves is its attention times the norm of the token's
value, as the head's output projection leaves it (Kobayashi et al., EMNLP 2020, arXiv 2004.10102). Both sums are read
of all heads for the same judged queries and documents, each document alone, each less those of the content-free query
(ICR). They are compared query by query on collections that no weight of a head was fitted on, and beside the probe.
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
from connector.backbone.prompt.template import NOT_APPLICABLE, PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.pulling import obtain
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.documents import document_text
from connector.heads.needs import Needs
from connector.sections import Settings
from connector.statistics.head_tables import SearchedQuery, statistics_folder
from connector.statistics.signal_tables import SignalTable, gather_signals
from connector.studies.relevance.command import study_options, write_report
from connector.studies.relevance.judged import Floats, Judged, best_held_out, one_vector, whole_collections
from connector.studies.relevance.states import FIELDS, searched_queries, study_settings
from connector.training.train_signals import probe_layers

__all__ = ["Attending", "Read", "main", "study"]

_PROBE_STRENGTHS = (0.04, 0.08, 0.16, 0.32)
_HEAD_STRENGTHS = (0.01, 0.04, 0.16, 0.64)
_SHARES = (0.25, 0.5, 1.0)
_KINDS = ("attention", "attention times the norm of what it moves")

Read = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Of a query behind a document: attention, and attention times norms; each float32 [layers * heads]."""


class Attending:
    """The settings' LLM, each of whose heads is read.

    Args:
        settings: see ``study_settings``. Weights are bfloat16 where they say so, else float32.
    """

    def __init__(self, settings: Settings) -> None:
        from transformers import AutoModelForCausalLM

        checkpoint = obtain(settings.backbone.model, cache=settings.cache.path, offline=settings.backbone.offline)
        self._tokenizer = Tokenizer.from_folder(checkpoint.path)
        self._template = PromptTemplate.from_folder(checkpoint.path, self._tokenizer)
        self._tokens = settings.backbone.max_document_tokens
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            attn_implementation="eager",
            dtype=torch.bfloat16 if settings.backbone.dtype == "bfloat16" else torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        self._decoder = model.eval().get_decoder()
        self._values: list[torch.Tensor] = []
        for layer in self._decoder.layers:
            layer.self_attn.v_proj.register_forward_hook(lambda _, __, out: self._values.append(out))

    @torch.no_grad()
    def read(self, query: str, document: str) -> Read:
        """What the query's tokens attend to of a document, less what those of the content-free query do."""
        text, asked, empty = (self._encoded(each) for each in (document, query, NOT_APPLICABLE))
        prefix, text = list(self._template.prefix), text[: self._tokens]
        there = slice(len(prefix), len(prefix) + len(text))
        before = [*prefix, *text, *self._template.before_query]
        most = max(len(asked), len(empty))
        self._values.clear()
        # Attention is causal: what fills up the shorter one moves nothing before it.
        both = [[*before, *words, *([words[-1]] * (most - len(words)))] for words in (asked, empty)]
        found = self._decoder(torch.tensor(both), output_attentions=True, use_cache=False).attentions
        plain, moved = [], []
        for layer, attention, values in zip(self._decoder.layers, found, self._values, strict=True):
            first, second = (
                attention[at, :, len(before) : len(before) + len(words), there].float().mean(dim=1)
                for at, words in enumerate((asked, empty))
            )
            # float32 [heads, document tokens]
            mass = first - second
            plain.append(mass.sum(dim=1))
            moved.append((mass * _norms(layer.self_attn.o_proj.weight, values[0, there], len(mass))).sum(dim=1))
        return torch.cat(plain).numpy(), torch.cat(moved).numpy()

    def _encoded(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode_user([text])[0].ids]


def _norms(projection: torch.Tensor, values: torch.Tensor, heads: int) -> torch.Tensor:
    """Norms of tokens' values as each head's part of the output projection leaves them: float32 [heads, tokens].

    Args:
        projection: [hidden, heads * size].
        values: [tokens, key-value heads * size].
        heads: of the queries; as many share a key-value head as there are more of them.
    """
    size = projection.shape[1] // heads
    own = values.float().view(len(values), -1, size).transpose(0, 1)
    own = own.repeat_interleave(heads // own.shape[0], dim=0)
    parts = projection.float().view(-1, heads, size).permute(1, 2, 0)
    norms: torch.Tensor = torch.linalg.vector_norm(own @ parts, dim=2)
    return norms


def study(
    tables: Sequence[SignalTable], reads: Sequence[Sequence[Read]], say: Callable[[str], None]
) -> Mapping[str, Any]:
    """All rows; those of weighed attention are compared with those of attention.

    Args:
        tables: hidden states.
        reads: of each table's passages.
        say: called with each row.
    """
    judged = Judged.of(tables)
    rows: dict[str, Any] = {"first stage": {"fused": judged.mean(judged.ndcg(judged.first_stage))}}
    splits = whole_collections(judged, 4)
    probe, strength = best_held_out(judged, splits, _PROBE_STRENGTHS, partial(one_vector, judged))
    rows["probe"], with_probe = judged.row(probe, strength=strength)
    compared: dict[str, Floats] = {}
    for kind, name in enumerate(_KINDS):
        heads = [np.stack([read[kind] for read in passages]) for passages in reads]
        plain = judged.laid_out([own.mean(axis=1, dtype=np.float64) for own in heads], tables)
        rows[f"{name}, mean of heads"], fused = judged.row(plain, compared.get("mean"))
        compared.setdefault("mean", fused)
        own = replace(judged, windows=replace(judged.windows, states=_heads(judged, tables, heads)))
        weighed, strength = best_held_out(own, splits, _HEAD_STRENGTHS, partial(one_vector, own))
        rows[f"{name}, a weight a head"], fused = judged.row(weighed, compared.get("weighed"), strength=strength)
        compared.setdefault("weighed", fused)
        rows[f"{name}, a weight a head, beside the probe"] = judged.beside(probe, weighed, with_probe, _SHARES)
    for name, row in rows.items():
        say(f"{name}: {row}")
    return rows


def _heads(judged: Judged, tables: Sequence[SignalTable], heads: Sequence[npt.NDArray[np.float32]]) -> torch.Tensor:
    """float32 [queries, documents, 1, heads]: in place of hidden states."""
    found = torch.zeros(*judged.first_stage.shape, 1, heads[0].shape[1])
    for at, (table, own) in enumerate(zip(tables, heads, strict=True)):
        for place, passages in enumerate(table.documents):
            if passages:
                found[at, place, 0] = torch.from_numpy(own[passages[0]])
    return found


def _read(attending: Attending, searched: SearchedQuery, table: SignalTable) -> list[Read]:
    """Of a query's documents: each is one passage."""
    texts = {hit.id: document_text(hit.fields, FIELDS) for hit in searched.hits}
    return [
        attending.read(searched.query, texts[identity])
        for identity, passages in zip(table.ids, table.documents, strict=True)
        if passages
    ]


@click.command()
@study_options(queries=10)
def main(
    folders: tuple[Path, ...], queries: int, tokens: int, assignments: tuple[str, ...], out: Path | None
) -> None:
    """Compare attention with attention weighed by what it moves; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    settings = study_settings(tokens, assignments)
    reader = open_reader(settings)
    needs = Needs(groups=(), layers=probe_layers(reader.runtime.shape.layers))
    searched = [query for folder in folders for query in searched_queries(folder, queries, settings)]
    asked = progress.track("states", searched, len(searched))
    tables = list(gather_signals(reader, asked, statistics_folder(settings.cache.path, reader), needs, FIELDS))
    attending = Attending(settings)
    tracked = progress.track("attention", zip(searched, tables, strict=True), len(searched))
    reads = [_read(attending, one, table) for one, table in tracked]
    write_report(out, study(tables, reads, progress.say), len(searched), folders, tokens, assignments)


if __name__ == "__main__":
    main()
