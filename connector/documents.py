"""Documents, hits and rerank results: the values that every other part passes on. All are frozen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from connector.cancelling import CancelScope
from connector.sections import Mode

__all__ = [
    "Document",
    "FirstStage",
    "Hit",
    "RankedHit",
    "RerankResult",
    "SupportsRerank",
    "UsedHead",
    "UsedSignal",
    "Workings",
    "clean_text",
    "document_text",
    "field_texts",
    "has_text",
]

# Shown as nothing although their categories do not say so: fillers, the braille blank, joiners, variation selectors.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffd")
_BLANK |= {chr(code) for code in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}

# Clusters map 20 levels unless told otherwise; a thousand would end in Python's limit, and the search unranked.
_DEEPEST = 64

FirstStage = Sequence[float] | Literal["order"] | None
"""What is known of the first stage: a score for each document (higher is better), their order, or nothing."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document to be indexed: an id, unique in its index, and fields (values are text or JSON values)."""

    id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """One first-stage hit.

    Attributes:
        id: the document's id in its index.
        score: first-stage score (BM25 or other; higher is better), or None where only the order is known.
        fields: the stored fields.
    """

    id: str
    score: float | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RankedHit:
    """One document of a rerank result.

    Attributes:
        index: place in the input list, from 0.
        score: the score that the order follows: head score fused with the first stage, as log-odds of relevance where
            the router's scores are absolute, else in units of the window's standard deviation; or the first-stage
            fallback when nothing was reranked.
        head_score: the LLM's score alone; None when nothing was reranked, and of a hit that kept its place unread
            because its first-stage score towers over the rest.
        first_stage_score: as it came in, None if none came.
        first_stage_rank: from 1, None if the input carried no first-stage order.
        truncated: text was left out because the document has more passages than are read.
        passages: number of passages that were read (0 for an empty document).
        passage: (start, end) characters of the document text that the heads looked at most, or None.
        looked_at: of each token of ``passage`` its (start, end) characters, and how much the heads looked at it, 0 or
            more. Not part of the JSON.
        id: the document's id, where the input had one.
        second_score: of a cascade, what the second LLM says alone, in log-odds; None where it did not read the hit.
        second_counted: of a cascade, what the second LLM adds to the head score. Not part of the JSON:
            ``connector.explanation`` tells it.
        signals: values of the result's signals for the document's best passage, in the order of its ``gates``; empty
            where nothing was read. Not part of the JSON: ``connector.explanation`` tells them with what they count.
    """

    index: int
    score: float
    head_score: float | None = None
    first_stage_score: float | None = None
    first_stage_rank: int | None = None
    truncated: bool = False
    passages: int = 0
    passage: tuple[int, int] | None = None
    id: str | None = None
    looked_at: tuple[tuple[int, int, float], ...] = ()
    signals: tuple[float, ...] = ()
    second_score: float | None = None
    second_counted: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The hit as JSON-ready values; ``id`` and ``second_score`` only where there is one."""
        out: dict[str, Any] = {} if self.id is None else {"id": self.id}
        out.update(
            index=self.index,
            score=self.score,
            head_score=self.head_score,
            first_stage_score=self.first_stage_score,
            first_stage_rank=self.first_stage_rank,
            truncated=self.truncated,
            passages=self.passages,
            passage=list(self.passage) if self.passage else None,
        )
        if self.second_score is not None:
            out["second_score"] = self.second_score
        return out


@dataclass(frozen=True, slots=True)
class UsedHead:
    """A head that took part in a ranking.

    Attributes:
        layer, head: which one, both from 0.
        readout: how its attention became a score.
        gate: its weight.
    """

    layer: int
    head: int
    readout: str
    gate: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"layer": self.layer, "head": self.head, "readout": self.readout, "gate": round(self.gate, 6)}


@dataclass(frozen=True, slots=True)
class UsedSignal:
    """A signal other than a head's attention that took part in a ranking.

    Attributes:
        signal: its name.
        gate: its weight.
    """

    signal: str
    gate: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"signal": self.signal, "gate": round(self.gate, 6)}


@dataclass(frozen=True, slots=True)
class Workings:
    """What the scores of one result were computed with, besides the signals and the first stage.

    Attributes:
        gates: what each signal is multiplied by, after ``(signal - mean) / scale``; in the order of a result's gates.
        means: of each signal.
        scales: of each signal.
        bias: what is added to the sum.
        spread: unit of the first stage's gate, where the sum is the logarithm of odds; None: the sums of one result
            are standardized.
        fusion: weight of the first stage, ``rrf`` or ``none``.
    """

    gates: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    bias: float
    spread: float | None
    fusion: float | str


@dataclass(frozen=True, slots=True)
class RerankResult:
    """All documents of one request, best first: as many as came in, each exactly once.

    Attributes:
        hits: best first; ties keep the input order.
        reranked: False when the input order was handed back; ``reason`` then says why.
        reason: None, or one of ``deadline``, ``cancelled``, ``failed: …``, ``no documents``, ``empty documents``,
            ``all pinned``.
        heads: the (layer, head) pairs that were read.
        timings_ms: milliseconds per stage: ``route``, ``tokenize``, ``encode``, ``read``, ``score``,
            ``total``; of a cascade also ``second``.
        cached: number of passages whose encoded states came from the document cache.
        encoded: number of passages that were encoded for this request.
        query_truncated: only the beginning of the query, with its instruction 512 tokens, was read.
        instruction_truncated: only the beginning of the instruction, 256 tokens, was read. Not part of the JSON: the
            command line has no instruction.
        mode: how the heads were chosen: ``routed``, ``static`` or ``all``; None when nothing was reranked.
        gates: the heads and other signals with their gates, best first.
        first_stage_gate: weight of the first stage that the route asks for (the setting ``rerank.fusion`` may name
            another); None when nothing was reranked.
        deepest_layer: the last layer that was run for the query, from 0; None when nothing was reranked.
        calibrated: ``head_score`` is the logarithm of the odds that a document is relevant; it means the same for
            every query.
        workings: how the scores were computed; None when nothing was reranked. Not part of the JSON:
            ``connector.explanation`` tells it.
        second_hits: of a cascade, how many hits the second LLM has read, too; None: there is none, or nothing was
            reranked.
    """

    hits: tuple[RankedHit, ...]
    reranked: bool
    reason: str | None = None
    heads: tuple[tuple[int, int], ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    cached: int = 0
    encoded: int = 0
    query_truncated: bool = False
    instruction_truncated: bool = False
    mode: str | None = None
    gates: tuple[UsedHead | UsedSignal, ...] = ()
    first_stage_gate: float | None = None
    deepest_layer: int | None = None
    calibrated: bool = False
    workings: Workings | None = None
    second_hits: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready values, as ``rh-connector rerank`` prints it."""
        out = {
            "hits": [hit.to_json() for hit in self.hits],
            "reranked": self.reranked,
            "reason": self.reason,
            "heads": [list(head) for head in self.heads],
            "timings_ms": {name: round(ms, 3) for name, ms in self.timings_ms.items()},
            "cached": self.cached,
            "encoded": self.encoded,
            "query_truncated": self.query_truncated,
            "mode": self.mode,
            "gates": [used.to_json() for used in self.gates],
            "first_stage_gate": self.first_stage_gate,
            "deepest_layer": self.deepest_layer,
        }
        return out if self.second_hits is None else {**out, "second_hits": self.second_hits}


def has_text(text: str) -> bool:
    """Whether there is anything to read in a text: one character that shows, and no stand-in for a lost one.

    Blanks, controls, zero-width characters, byte order marks, lone surrogates and U+FFFD are nothing.
    """
    return any(
        not (char.isspace() or char in _BLANK or unicodedata.category(char) in ("Cc", "Cf", "Cs")) for char in text
    )


def document_text(fields: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """The text that is scored: the chosen fields' values joined by a newline.

    Dotted names reach into objects; lists join with a blank; missing and empty fields are left out. Without
    ``names``, all fields whose value is text, in the order they are stored. What is nested deeper than 64 levels is
    left out.
    """
    return "\n".join(text for _, text in field_texts(fields, names))


def field_texts(fields: Mapping[str, Any], names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The parts of ``document_text``: (name, text) of each field that has a text, in its order."""
    chosen = names or [name for name, value in fields.items() if _holds_text(value)]
    texts = ((name, _field_text(_lookup(fields, name))) for name in chosen)
    return [(name, text) for name, text in texts if text]


def _holds_text(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether a search would find words in it: text, or a list or object with some."""
    if isinstance(value, list | tuple | Mapping):
        return levels > 0 and any(_holds_text(own, levels - 1) for own in _inside(value))
    return isinstance(value, str)


def _inside(value: Sequence[Any] | Mapping[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value


def _lookup(fields: Mapping[str, Any], name: str) -> Any:
    if name in fields:
        return fields[name]
    head, _, rest = name.partition(".")
    if not rest or head not in fields:
        return None
    inner = fields[head]
    if isinstance(inner, Mapping):
        return _lookup(inner, rest)
    if isinstance(inner, list):
        return [_lookup(item, rest) for item in inner if isinstance(item, Mapping)]
    return None


def _field_text(value: Any, levels: int = _DEEPEST) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | Mapping):
        texts = (_field_text(own, levels - 1) for own in _inside(value)) if levels else ()
        return " ".join(text for text in texts if text)
    return str(value)


def clean_text(text: str) -> str:
    """The text with lone surrogates, which no encoding can carry, as replacement characters (same length)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


@runtime_checkable
class SupportsRerank(Protocol):
    """What is asked of a reranker. It is called from threads."""

    def rerank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any] | Hit],
        *,
        first_stage: FirstStage = None,
        deadline_ms: float | None = None,
        mode: Mode | None = None,
        scope: CancelScope | None = None,
        instruction: str | None = None,
        most_tokens: int | None = None,
    ) -> RerankResult:
        """Every document, best first; in the first stage's order when the deadline passes or the scope ends.

        Args:
            query, documents, first_stage, deadline_ms, mode, scope: see ``Reranker.rerank``.
            instruction: what the query is after; it is read before the query.
            most_tokens: of a document; what is behind them is not read.

        Raises:
            RequestError: query or documents are wrong.
        """
        ...
