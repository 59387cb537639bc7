"""Other ways to ask the frozen LLM: ``python -m connector.studies.relevance.variants FOLDER…``.

Wordings, a demonstration, titles by themselves, passages, and likelihoods weighed in other ways: each is read for the
same judged queries and documents as the prompt in use, and compared with it query by query, on collections that its
probe did not see. What was read is kept: a run that was stopped goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.open_reader import open_reader
from connector.backbone.prompt.template import NOT_APPLICABLE, PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
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
from connector.studies.relevance.passages import pooled_passages
from connector.studies.relevance.states import FIELDS, searched_queries, study_settings
from connector.training.train_signals import probe_layers

__all__ = ["VARIANTS", "Asking", "Variant", "main", "pooled_likelihoods", "study"]

_PLAIN = "\n\nPlease find information that are relevant to the following query in the paragraphs above.\n\nQuery: "
_OPENING = "Here are some paragraphs:\n\n"
_DEMONSTRATION = (
    "Bread rises because yeast turns sugar into carbon dioxide, which the dough holds."
    f"{_PLAIN}why does dough get bigger\n\n{_OPENING}"
)
_STRENGTHS = (0.04, 0.08, 0.16, 0.32)
_SHARES = (0.25, 0.5, 1.0)
_MEMORY = 1_500_000_000
_PASSAGES = 4


@dataclass(frozen=True, slots=True)
class Variant:
    """Another way to read the same documents.

    Attributes:
        before_query: what stands between document and query.
        before_documents: what is put behind the prompt's opening.
        fields: of the hits.
        passages: of a document, at most.
    """

    before_query: str = _PLAIN
    before_documents: str = ""
    fields: tuple[str, ...] = FIELDS
    passages: int = 1

    def template(self, own: PromptTemplate, tokenizer: Tokenizer) -> PromptTemplate:
        """The checkpoint's prompt, so changed."""
        prefix, before = own.prefix, own.before_query
        if self.before_documents:
            prefix += tokenizer.encode_template(self.before_documents)
        if self.before_query != _PLAIN:
            before = tokenizer.encode_template(self.before_query)
        return replace(own, prefix=prefix, before_query=before)


VARIANTS: Mapping[str, Variant] = {
    "in use": Variant(),
    "asked as a question": Variant(
        "\n\nWhich of the texts above answers this question or statement best?\n\nQuestion: "
    ),
    "asked for a query": Variant(
        "\n\nPlease write a query that somebody who looks for this text would type.\n\nQuery: "
    ),
    "a demonstration before": Variant(before_documents=_DEMONSTRATION),
    "title": Variant(fields=("title",)),
    "text": Variant(fields=("text",)),
    "passages": Variant(passages=_PASSAGES),
}


def pooled_likelihoods(told: Floats, empty: Floats, rarity: Floats) -> dict[str, Floats]:
    """Ways to make one number of a query's log-probabilities: name -> float64 [passages].

    Args:
        told: float64 [passages, query tokens].
        empty: float64 [query tokens]: those behind a document without content.
        rarity: float64 [query tokens]: how rare each token is in the collection.
    """
    gained = told - empty
    return {
        "likelihood": told.sum(axis=1),
        # The mean orders one query's documents as the sum does: it is left out.
        "likelihood, tokens weighted by rarity": told @ rarity,
        # Taken off a whole query, an empty document's moves all alike: token by token it tells them apart.
        "likelihood above an empty document's, where it is above": np.maximum(gained, 0.0).sum(axis=1),
        "the same, weighted by rarity": np.maximum(gained, 0.0) @ rarity,
    }


class Asking:
    """Readers of one checkpoint, one for each variant, and what they have read.

    Args:
        settings: see ``study_settings``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        checkpoint = obtain(settings.backbone.model, cache=settings.cache.path, offline=settings.backbone.offline)
        self._runtime, self._digest = open_reader(settings).runtime, checkpoint.digest()
        self._tokenizer = Tokenizer.from_folder(checkpoint.path)
        self._template = PromptTemplate.from_folder(checkpoint.path, self._tokenizer)
        layers = probe_layers(self._runtime.shape.layers)
        self._needs = Needs(groups=(), layers=layers, likelihood=True)
        self._in_use = self._reader(VARIANTS["in use"])

    def tables(
        self, variant: Variant, queries: Iterable[SearchedQuery], needs: Needs | None = None
    ) -> list[SignalTable]:
        """Of each query, in their order."""
        reader = self._reader(variant)
        kept = statistics_folder(self._settings.cache.path, reader)
        return list(gather_signals(reader, queries, kept, needs or self._needs, variant.fields))

    def empty(self, query: str) -> Floats:
        """Log-probabilities of a query's tokens behind a document without content: float64 [query tokens]."""
        needs = Needs(groups=(), likelihood=True)
        read = self._in_use.read(query, [NOT_APPLICABLE], needs)
        return np.asarray(read.log_probabilities[0], dtype=np.float64)

    def tokens(self, text: str) -> list[int]:
        """Of a query or document."""
        return [int(token) for token in self._tokenizer.encode_user([text])[0].ids]

    @property
    def states_only(self) -> Needs:
        """Without likelihoods: half the layers."""
        return replace(self._needs, likelihood=False)

    def _reader(self, variant: Variant) -> Reader:
        return Reader(
            self._runtime,
            self._tokenizer,
            variant.template(self._template, self._tokenizer),
            "solo",
            self._digest,
            DocumentCache(_MEMORY),
            max_document_tokens=self._settings.backbone.max_document_tokens,
            max_passages=variant.passages,
        )


def study(asking: Asking, queries: Sequence[SearchedQuery], say: Callable[[str], None]) -> dict[str, Any]:
    """All rows."""
    rows: dict[str, Any] = {}

    def told(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        say(f"{name}: {row}")

    base = asking.tables(VARIANTS["in use"], queries)
    judged = Judged.of(base)
    told("first stage", {"fused": judged.mean(judged.ndcg(judged.first_stage))})
    probe, strength = _probe(judged)
    row, in_use = judged.row(probe, strength=strength)
    told("probe", row)
    likelihoods = _likelihoods(asking, queries, base)
    plain: Floats | None = None
    for name, scores in likelihoods.items():
        row, fused = judged.row(scores, plain)
        plain = fused if plain is None else plain
        told(name, row)
        told(f"probe and {name}", judged.beside(probe, scores, in_use, _SHARES))
    for name in ("asked as a question", "asked for a query", "a demonstration before"):
        tables = asking.tables(VARIANTS[name], queries)
        other = Judged.of(tables)
        scores, strength = _probe(other)
        told(f"probe, {name}", judged.row(scores, in_use, strength=strength)[0])
        told(f"probe, mean with: {name}", judged.beside(probe, scores, in_use, (1.0,)))
        likely = judged.laid_out([table.log_probabilities.astype(np.float64).sum(axis=1) for table in tables], tables)
        told(f"likelihood, {name}", judged.row(likely, plain)[0])
        told(f"likelihood, mean with: {name}", judged.beside(likelihoods["likelihood"], likely, plain, (1.0,)))
    _apart(asking, queries, told)
    for name, row in pooled_passages(asking.tables(VARIANTS["passages"], queries, asking.states_only)).items():
        told(name, row)
    return rows


def _apart(asking: Asking, queries: Sequence[SearchedQuery], told: Callable[[str, dict[str, Any]], None]) -> None:
    """Title and text read one by one, of windows whose documents all have both."""
    whole = [
        query
        for query in queries
        if all(document_text(hit.fields, (name,)).strip() for hit in query.hits for name in FIELDS)
    ]
    if not whole:
        return
    scores: dict[str, Floats] = {}
    for name in ("in use", "title", "text"):
        judged = Judged.of(asking.tables(VARIANTS[name], whole, asking.states_only))
        scores[name], _ = _probe(judged)
    row, in_use = judged.row(scores["in use"], queries=len(whole))
    told("windows with titles, both in one", row)
    told("text alone", judged.row(scores["text"], in_use)[0])
    told("title and text, each read alone", judged.beside(scores["text"], scores["title"], in_use, _SHARES))
    told("both in one, and the title alone", judged.beside(scores["in use"], scores["title"], in_use, _SHARES))


def _probe(judged: Judged) -> tuple[Floats, float]:
    """Held-out scores of the best penalty, and that."""
    return best_held_out(judged, whole_collections(judged, 4), _STRENGTHS, partial(one_vector, judged))


def _likelihoods(
    asking: Asking, queries: Sequence[SearchedQuery], tables: Sequence[SignalTable]
) -> dict[str, Floats]:
    judged = Judged.of(tables)
    rarity = _rarity(asking, queries)
    by_name: dict[str, list[Floats]] = {}
    for query, table in zip(queries, tables, strict=True):
        known = rarity[table.source]
        rarest = max(known.values())
        rare = np.array([known.get(token, rarest) for token in asking.tokens(query.query)])
        told = table.log_probabilities.astype(np.float64)
        for name, values in pooled_likelihoods(told, asking.empty(query.query), rare[: told.shape[1]]).items():
            by_name.setdefault(name, []).append(values)
    return {name: judged.laid_out(values, tables) for name, values in by_name.items()}


def _rarity(asking: Asking, queries: Sequence[SearchedQuery]) -> dict[str, dict[int, float]]:
    """How rare a token is among the documents of a collection that are read: source -> token -> log(N / n)."""
    texts: dict[str, dict[str, str]] = {}
    for query in queries:
        texts.setdefault(query.source, {}).update({hit.id: document_text(hit.fields, FIELDS) for hit in query.hits})
    found = {}
    for source, documents in texts.items():
        counts = Counter(token for text in documents.values() for token in set(asking.tokens(text)))
        most = len(documents) + 1
        found[source] = {token: float(np.log(most / count)) for token, count in counts.items()}
    return found


@click.command()
@study_options(queries=40)
def main(
    folders: tuple[Path, ...], queries: int, tokens: int, assignments: tuple[str, ...], out: Path | None
) -> None:
    """Compare ways to ask the LLM; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    settings = study_settings(tokens, assignments)
    searched = [query for folder in folders for query in searched_queries(folder, queries, settings)]
    rows = study(Asking(settings), searched, progress.say)
    write_report(out, rows, len(searched), folders, tokens, assignments)


if __name__ == "__main__":
    main()
