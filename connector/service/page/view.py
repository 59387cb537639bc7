"""What the page shows of a search: rows, bars and marked text, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connector.documents import clean_text
from connector.explanation import Explanation, HitExplanation, SecondCounted, explain
from connector.service.page.searching import Found

__all__ = ["Piece", "Row", "Stage", "Term", "View", "view_of"]

_TITLE, _SNIPPET, _BEFORE = 110, 240, 60
_TEXT, _TEXT_BEFORE = 6000, 1500
_TERMS = 12
BAR = 100
"""Width of a bar to each side of its middle."""
LATENCY = 1000
"""Width of the picture of stages."""
_WORDS = {
    "first stage": "first stage",
    "route": "router",
    "tokenize": "tokenize",
    "encode": "encode documents",
    "read": "read with the query",
    "score": "score",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, marked or not."""

    text: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the sum that a score is.

    Attributes:
        name, how: what it is, and how it was computed.
        counted: what it adds.
        x, width: its bar.
    """

    name: str
    how: str
    counted: float
    x: float = 0.0
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One hit.

    Attributes:
        key: number of the hit in the first stage, from 0: the same in both lists.
        before, place: in the first stage and after reranking, from 1.
        id, title, snippet, text: of the document; what was looked at is marked.
        first_stage: its score there, in words, or None.
        score: in words, or None where nothing was reranked.
        percent: the probability in percent, or None.
        terms: what the score is the sum of.
        signals: what the LLM's score is the sum of, where the terms hold it as one.
        why: what else decided its place, or None.
        truncated: text was left out.
    """

    key: int
    place: int
    before: int
    id: str
    title: str
    snippet: tuple[Piece, ...]
    text: tuple[Piece, ...]
    first_stage: str | None
    score: str | None = None
    percent: int | None = None
    terms: tuple[Term, ...] = ()
    signals: tuple[Term, ...] = ()
    why: str | None = None
    truncated: bool = False

    @property
    def up(self) -> int:
        """Places that it moved up; below 0: down."""
        return self.before - self.place


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the work: its name, milliseconds, and part of the picture."""

    name: str
    milliseconds: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class View:
    """All that the template needs of a search.

    Attributes:
        before, after: the hits in both orders.
        stages, total_ms: where the time went.
        explanation: how scores were computed; None where nothing was reranked.
        moved_up, moved_down: how many hits moved.
        cached, encoded: passages from the cache, and encoded for this search.
        reranked: the order is the reranker's.
    """

    before: tuple[Row, ...]
    after: tuple[Row, ...]
    stages: tuple[Stage, ...]
    total_ms: float
    explanation: Explanation | None
    cached: int
    encoded: int
    reranked: bool

    @property
    def moved_up(self) -> int:
        return sum(row.up > 0 for row in self.after)

    @property
    def moved_down(self) -> int:
        return sum(row.up < 0 for row in self.after)


def view_of(found: Found) -> View:
    """The view of a search that came to something."""
    result = found.result
    explanation = None if result is None else explain(result)
    parts = {} if explanation is None else {hit.index: hit for hit in explanation.hits}
    ranked = {} if result is None else {hit.index: (place, hit) for place, hit in enumerate(result.hits, 1)}
    terms = {at: _terms(part, explanation) for at, part in parts.items()}
    widest = _widest(terms)
    signals = {at: _signals(part, explanation) for at, part in parts.items()}
    widest_signal = _widest(signals)
    rows = []
    for at, (hit, text) in enumerate(zip(found.hits, found.texts, strict=True)):
        place, own = ranked.get(at, (at + 1, None))
        part = parts.get(at)
        title, rest = _titled(text, clean_text(hit.id))
        passage = None if own is None else own.passage
        rows.append(
            Row(
                at,
                place,
                at + 1,
                clean_text(hit.id),
                title,
                _pieces(text, passage, rest, _SNIPPET, _BEFORE),
                _pieces(text, passage, 0, _TEXT, _TEXT_BEFORE),
                None if hit.score is None else f"{hit.score:.2f}",
                None if own is None else _score(own.score),
                None if part is None or part.probability is None else round(100 * part.probability),
                tuple(_with_bar(term, widest) for term in terms.get(at, ())),
                tuple(_with_bar(term, widest_signal) for term in signals.get(at, ())),
                None if part is None else part.why,
                own is not None and own.truncated,
            )
        )
    return View(
        tuple(rows),
        tuple(sorted(rows, key=lambda row: row.place)),
        _stages(found.timings_ms),
        found.total_ms,
        explanation,
        0 if result is None else result.cached,
        0 if result is None else result.encoded,
        result is not None,
    )


def _score(score: float) -> str:
    return (f"{score:+.2f}" if abs(score) >= 0.1 or not score else f"{score:+.4f}").replace("-", "−")


def _titled(text: str, identity: str) -> tuple[str, int]:
    """A document's first line, cut, and where the text behind it begins; its id where it has no text."""
    start = len(text) - len(text.lstrip())
    line = text[start:].partition("\n")[0].strip()
    if not line:
        return identity, 0
    if len(line) <= _TITLE:
        return line, start + len(line)
    # All of it is shown below again: the line is no title.
    return line[: _TITLE - 1].rsplit(" ", 1)[0] + "…", start


def _pieces(text: str, passage: tuple[int, int] | None, begin: int, most: int, before: int) -> tuple[Piece, ...]:
    """At most so many characters of a text from ``begin`` on, around the part that is marked."""
    first, last = (begin, begin) if passage is None else _whole_words(text, *passage)
    first, last = max(first, begin), max(last, begin)
    # From the beginning of a word.
    start = begin if first < begin + before else first - len(text[first - before : first].partition(" ")[2])
    end = min(len(text), max(start + most, last))
    pieces = [
        Piece(("… " if start > begin else "") + text[start:first]),
        Piece(text[first:last], True),
        Piece(text[last:end] + (" …" if end < len(text) else "")),
    ]
    return tuple(piece for piece in pieces if piece.text.strip())


def _whole_words(text: str, first: int, last: int) -> tuple[int, int]:
    """The part, less blanks at its ends, with the words that tokens cut; for the eye alone."""
    while first < last and text[first].isspace():
        first += 1
    while last > first and text[last - 1].isspace():
        last -= 1
    while 0 < first < last and text[first - 1].isalnum() and text[first].isalnum():
        first -= 1
    while first < last < len(text) and text[last - 1].isalnum() and text[last].isalnum():
        last += 1
    return first, last


def _terms(hit: HitExplanation, explanation: Explanation | None) -> list[Term]:
    """The lines of a score's sum; of many signals the ones that count most, and the rest as one."""
    if explanation is None or hit.head_counted is None or hit.why is not None:
        return []
    own = explanation.workings
    terms = []
    if explanation.unit == "log-odds":
        terms.append(Term("starting point", "bias: how rarely any hit is relevant", own.bias))
        terms += _signal_terms(hit, explanation)
        if hit.second is not None:
            terms.append(_second_term(hit.second))
    else:
        spread = explanation.heads
        how = f"rank {hit.head_standing:.0f} of the LLM's scores"
        if spread is not None:
            how = f"({hit.head_score:.4g} − mean {_minus(spread.mean)}) / deviation {spread.deviation:.4g}"
        terms.append(Term("LLM", how, hit.head_counted))
    first = explanation.first_stage
    if hit.first_stage_counted is not None and hit.standing is not None and first is not None:
        value = f"{hit.first_stage_value:.4g}" if first["of"] == "scores" else "its place"
        how = f"rank {hit.standing:.0f}"
        if "gate" in first:
            how = f"{value} is {hit.standing:+.2f} deviations from the mean; × {first['gate'] * first['unit']:.4g}"
        terms.append(Term("first stage", how, hit.first_stage_counted))
    return terms


def _signals(hit: HitExplanation, explanation: Explanation | None) -> list[Term]:
    """Every signal, where ``_terms`` has the LLM's score as one."""
    if explanation is None or explanation.unit == "log-odds":
        return []
    return _signal_terms(hit, explanation) if hit.signals else []


def _minus(value: float) -> str:
    """To be taken away: what is below 0 in brackets."""
    return f"{value:.4g}" if value >= 0 else f"(−{-value:.4g})"


def _widest(rows: Mapping[int, Sequence[Term]]) -> float:
    return max((abs(term.counted) for terms in rows.values() for term in terms), default=0.0)


def _signal_terms(hit: HitExplanation, explanation: Explanation) -> list[Term]:
    own = explanation.workings
    terms = [
        Term(
            signal.name,
            f"{gate:.4g} × ({signal.value:.4g} − mean {_minus(mean)}) / scale {scale:.4g}",
            signal.counted,
        )
        for signal, gate, mean, scale in zip(hit.signals, own.gates, own.means, own.scales, strict=True)
    ]
    terms.sort(key=lambda term: -abs(term.counted))
    if len(terms) > _TERMS:
        rest = sum(term.counted for term in terms[_TERMS:])
        terms[_TERMS:] = [Term(f"{len(terms) - _TERMS} more signals", "together", rest)]
    return terms


def _second_term(second: SecondCounted) -> Term:
    how = "it did not read this hit: as far as it moves those that it read, in the mean"
    if second.value is not None:
        how = f"it says {second.value:.4g}: half of what it says more"
    return Term("second model", how, second.counted)


def _with_bar(term: Term, widest: float) -> Term:
    width = BAR * abs(term.counted) / widest if widest else 0.0
    x = BAR if term.counted >= 0 else BAR - width
    return Term(term.name, term.how, term.counted, round(x, 1), round(width, 1))


def _stages(timings_ms: Mapping[str, float]) -> tuple[Stage, ...]:
    total = sum(timings_ms.values()) or 1.0
    stages: list[Stage] = []
    x = 0.0
    for name, milliseconds in timings_ms.items():
        width = LATENCY * milliseconds / total
        stages.append(Stage(_WORDS.get(name, name), milliseconds, round(x, 1), round(width, 1)))
        x += width
    return tuple(stages)
