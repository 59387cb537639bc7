"""What the report's page shows: queries won and lost with their hits, and bars whose lengths are computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connector.documents import Hit, document_text
from connector.evaluation.answering.meaning import meaning, to_set
from connector.evaluation.answering.verdict import Verdict, assigned
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report, System
from connector.evaluation.running import Ranked
from connector.sections import Settings

__all__ = [
    "CHART_HEIGHT",
    "CHART_WIDTH",
    "MOST_HITS",
    "Bar",
    "Interval",
    "ShownHit",
    "ShownQuery",
    "ShownRow",
    "WindowSize",
    "changes",
    "query_bars",
    "shown_rows",
    "window_sizes",
]

MOST_HITS = 10
"""Hits that are shown of each list: those that nDCG@10 looks at."""
CHART_WIDTH, CHART_HEIGHT = 1000.0, 160.0
_MOST_QUERIES = 25
_TITLE = 120
# An interval's mark is never too thin to be seen.
_THINNEST = 0.6


@dataclass(frozen=True, slots=True)
class ShownHit:
    """A hit of one list.

    Attributes:
        title: its title, else its first words, else its id.
        id: of the document.
        grade: how relevant it was judged; 0: not, or by nobody.
        up: how many places it rose; below 0: fell.
    """

    title: str
    id: str
    grade: int
    up: int


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query before and after.

    Attributes:
        id, text: of the query.
        before, after: nDCG@10.
        first, reranked: the first hits of both lists.
        outside: how many relevant documents are not in the window: no reranking brings them.
    """

    id: str
    text: str
    before: float
    after: float
    first: tuple[ShownHit, ...]
    reranked: tuple[ShownHit, ...]
    outside: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A query's change as a bar; see ``query_bars``."""

    x: float
    y: float
    width: float
    height: float
    change: float
    text: str


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval and its middle on a scale of 0 to 100, and where no difference lies on it."""

    low: float
    middle: float
    width: float
    zero: float


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row of the report.

    Attributes:
        system: the row.
        what: in words.
        settings: what gives it, on one line; None: no setting.
        interval: against the first stage; None for the first stage.
        is_judged: the verdict is about it.
    """

    system: System
    what: str
    settings: str | None
    interval: Interval | None
    is_judged: bool


@dataclass(frozen=True, slots=True)
class WindowSize:
    """A number of reranked hits, and what it gives.

    Attributes:
        hits: how many are reranked.
        value: mean nDCG@10.
        difference: to the first stage.
        length: of its bar, 0 to 100; the longest has 100.
    """

    hits: int
    value: float
    difference: float
    length: float


def window_sizes(verdict: Verdict, ranked: Sequence[Ranked]) -> tuple[WindowSize, ...]:
    """What smaller windows give, of the row that the verdict is about; none where one cannot tell."""
    own = next(each for each in ranked if each.system.label() == verdict.system.label())
    first = verdict.system.measures[MEASURES[0]] - verdict.comparison.difference
    gains = {hits: value - first for hits, value in own.by_window.items()}
    longest = max(map(abs, gains.values()), default=0) or 1.0
    return tuple(
        WindowSize(hits, value, gains[hits], round(100 * abs(gains[hits]) / longest, 2))
        for hits, value in own.by_window.items()
    )


def changes(
    ids: Sequence[str],
    verdict: Verdict,
    ranked: Sequence[Ranked],
    collection: Collection,
    windows: Mapping[str, Sequence[Hit]],
) -> tuple[ShownQuery, ...]:
    """The first of these queries, with the hits of both lists.

    Args:
        ids: the queries, those that changed most first.
        verdict: which row is shown.
        ranked: all rows, with their rankings.
        collection, windows: the queries, their judgments and first-stage hits.
    """
    after = next(own for own in ranked if own.system.label() == verdict.system.label())
    before = next(own for own in ranked if own.system.name == FIRST_STAGE)
    return tuple(
        ShownQuery(
            query,
            collection.queries[query],
            before.system.per_query[query],
            after.system.per_query[query],
            *_lists(windows[query], before.rankings[query], after.rankings[query], collection.qrels[query]),
            outside=_outside(windows[query], collection.qrels[query]),
        )
        for query in ids[:_MOST_QUERIES]
    )


def query_bars(verdict: Verdict, report: Report, collection: Collection) -> tuple[Bar, ...]:
    """Each query's change of nDCG@10, the greatest gain first; 0 lies half way down ``CHART_HEIGHT``."""
    first = next(own for own in report.systems if own.name == FIRST_STAGE)
    ordered = [*verdict.won, *verdict.equal, *reversed(verdict.lost)]
    step, half = CHART_WIDTH / len(ordered), CHART_HEIGHT / 2
    bars = []
    for at, query in enumerate(ordered):
        change = verdict.system.per_query[query] - first.per_query[query]
        height = abs(change) * half
        bars.append(
            Bar(
                round(at * step, 2),
                round(half - height if change > 0 else half, 2),
                round(max(step * 0.85, _THINNEST), 2),
                round(height, 2),
                change,
                collection.queries[query],
            )
        )
    return tuple(bars)


def shown_rows(report: Report, verdict: Verdict, settings: Settings) -> tuple[ShownRow, ...]:
    """All rows with what they stand for; their intervals share one scale."""
    ends = [0.0, *(end for own in report.systems if own.comparison for end in own.comparison.interval)]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / width, 2)

    rows = []
    for own in report.systems:
        told = meaning(own, report, settings)
        interval = None
        if own.comparison is not None:
            left, right = map(place, own.comparison.interval)
            interval = Interval(left, place(own.comparison.difference), max(right - left, _THINNEST), place(0))
        given = None if told.settings is None else assigned(to_set(told, settings))
        rows.append(ShownRow(own, told.what, given, interval, own is verdict.system))
    return tuple(rows)


def _lists(
    hits: Sequence[Hit], before: Sequence[str], after: Sequence[str], grades: Mapping[str, int]
) -> tuple[tuple[ShownHit, ...], tuple[ShownHit, ...]]:
    titles = {hit.id: _title(hit) for hit in hits}
    old = {identity: at for at, identity in enumerate(before)}
    new = {identity: at for at, identity in enumerate(after)}

    def shown(ids: Sequence[str]) -> tuple[ShownHit, ...]:
        return tuple(
            ShownHit(titles[identity], identity, max(grades.get(identity, 0), 0), old[identity] - new[identity])
            for identity in ids[:MOST_HITS]
        )

    return shown(before), shown(after)


def _outside(hits: Sequence[Hit], grades: Mapping[str, int]) -> int:
    return len({identity for identity, grade in grades.items() if grade > 0} - {hit.id for hit in hits})


def _title(hit: Hit) -> str:
    """Cut by characters: not every language parts words by blanks."""
    text = document_text(hit.fields, ("title",)) or document_text(hit.fields, ("text",)) or document_text(hit.fields)
    line = " ".join(text[: 4 * _TITLE].split())
    return (line if len(line) <= _TITLE else f"{line[: _TITLE - 1].rstrip()}…") or hit.id
