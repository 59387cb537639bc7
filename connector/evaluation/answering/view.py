"""What the report's page shows: queries won and lost with their hits, rows in words, smaller windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connector.documents import Hit, document_text
from connector.evaluation.answering.meaning import assignment, meaning, to_set
from connector.evaluation.answering.verdict import Verdict
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report, System
from connector.evaluation.running import Ranked
from connector.sections import Settings

__all__ = [
    "MOST_HITS",
    "ShownHit",
    "ShownQuery",
    "ShownRow",
    "WindowSize",
    "changes",
    "one_window",
    "recall",
    "shown_rows",
    "window_sizes",
]

MOST_HITS = 10
"""Hits that are shown of each list: those that nDCG@10 looks at."""
_MOST_QUERIES = 25
_TITLE = 120


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
class ShownRow:
    """A row of the report.

    Attributes:
        system: the row.
        what: in words.
        settings: what gives it, as ``key=value``; empty: the defaults do; None: no setting.
        is_judged: the verdict is about it.
    """

    system: System
    what: str
    settings: tuple[str, ...] | None
    is_judged: bool


@dataclass(frozen=True, slots=True)
class WindowSize:
    """A number of reranked hits, and what it gives.

    Attributes:
        hits: how many are reranked.
        value: mean nDCG@10.
        difference: to the first stage.
    """

    hits: int
    value: float
    difference: float


def window_sizes(verdict: Verdict, ranked: Sequence[Ranked]) -> tuple[WindowSize, ...]:
    """What smaller windows give, of the row that the verdict is about; none where one cannot tell."""
    own = next(each for each in ranked if each.system.label() == verdict.system.label())
    first = verdict.system.measures[MEASURES[0]] - verdict.comparison.difference
    return tuple(WindowSize(hits, value, value - first) for hits, value in own.by_window.items())


def one_window(report: Report, windows: Mapping[str, Sequence[Hit]]) -> str:
    """Why ``window_sizes`` tells of none that is smaller, and what would."""
    if report.provenance.layout != "solo":
        return (
            f"Measure again with another --window: in the layout {report.provenance.layout} a document's score "
            "depends on its window, so one measurement shows one. In the layout solo it shows smaller ones, too."
        )
    if report.provenance.second_model is not None:
        return (
            "Measure again with another --window: which hits the second LLM reads depends on it, so one measurement "
            "shows one."
        )
    most = _most_hits(windows)
    hits = f"{most} hit{'' if most == 1 else 's'}"
    if most < report.window:
        return f"No query has more than {hits} here: too few for smaller windows."
    return f"A window of {hits} is too small to hold smaller ones. Measure again with a greater --window."


def recall(report: Report, windows: Mapping[str, Sequence[Hit]]) -> str | None:
    """What of the relevant documents is in the window, and what would bring more; None: an older report."""
    if report.recall is None:
        return None
    if report.recall >= 1:
        return "All relevant documents are among these hits: a larger window cannot hold more of them."
    # Rounded up, nearly all would be all.
    share = f"{min(100 * report.recall, 99):.0f} % of the relevant documents are among these hits."
    if _most_hits(windows) < report.window:
        return f"{share} A larger window cannot hold more: no query has so many hits. Reranking cannot, either."
    return f"{share} A larger window can hold more; reranking alone cannot."


def _most_hits(windows: Mapping[str, Sequence[Hit]]) -> int:
    return max(map(len, windows.values()), default=0)


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


def shown_rows(report: Report, verdict: Verdict, settings: Settings) -> tuple[ShownRow, ...]:
    """All rows with what they stand for."""
    rows = []
    for own in report.systems:
        told = meaning(own, report, settings)
        given = (
            None
            if told.settings is None
            else tuple(assignment(key, value) for key, value in to_set(told, settings).items())
        )
        rows.append(ShownRow(own, told.what, given, own is verdict.system))
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
