"""Evaluations made by hand: which queries a row wins and loses is chosen, values and tests are the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from connector.documents import Hit
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES, per_query
from connector.evaluation.report import Report, make_system
from connector.evaluation.running import Ranked
from tests.evaluation.test_report import make_report

__all__ = ["IDS", "judged", "report_of"]

IDS = ("good", "<b>bad</b>", "plain")
_BEST, _MIDDLE, _WORST = IDS, ("plain", "good", "<b>bad</b>"), ("plain", "<b>bad</b>", "good")


def judged(queries: int) -> tuple[Collection, dict[str, list[Hit]]]:
    """Queries ``q00`` …, each with the right document at the second of three places, and one that is not found."""
    ids = [f"q{at:02}" for at in range(queries)]
    return Collection(
        name="small",
        path=Path("small"),
        split="test",
        queries={query: f"<i>query</i> {query}" for query in ids},
        qrels={query: {"good": 2, "plain": 0, "lost": 1} for query in ids},
        excluded=frozenset(),
        qrels_file="qrels.tsv",
    ), {query: [Hit(own, 1.0, {"title": f"<script>{own}", "text": "words"}) for own in _MIDDLE] for query in ids}


def report_of(collection: Collection, rows: Mapping[tuple[str, str], tuple[int, int]]) -> tuple[Report, list[Ranked]]:
    """Rows that win the first queries, lose those behind them, and leave the rest as it is.

    Args:
        collection: of ``judged``.
        rows: name and read-out -> how many queries are won, and lost.
    """

    def measured(won: int, lost: int) -> tuple[dict[str, dict[str, float]], dict[str, tuple[str, ...]]]:
        order = [_BEST] * won + [_WORST] * lost + [_MIDDLE] * (len(collection.queries) - won - lost)
        rankings = dict(zip(collection.queries, order, strict=True))
        return per_query(MEASURES, collection.qrels, rankings), rankings

    plain, as_found = measured(0, 0)
    ranked = [Ranked(make_system("first-stage", plain), plain, as_found)]
    for (name, readout), (won, lost) in rows.items():
        values, rankings = measured(won, lost)
        ranked.append(Ranked(make_system(name, values, plain, readout=readout), values, rankings))
    report = make_report()
    systems = [own.system for own in ranked]
    return replace(report, queries=len(collection.queries), systems=systems, recall=0.5), ranked
