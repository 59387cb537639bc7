"""Is it worth it? One row against the first stage, said in three lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from connector.evaluation.answering.meaning import as_set, assignment, meaning, to_set
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report, System
from connector.evaluation.significance import Comparison, compare
from connector.sections import Settings

__all__ = ["Answer", "Verdict", "answer_of", "assigned", "by_how_much", "verdict_of"]

Answer: TypeAlias = Literal["better", "no difference", "worse"]

_SIGNIFICANT = 0.05
# With fewer, no figure of how many would do means anything.
_FEWEST = 10
# Fewer that change cannot reach p < .05, whichever way they go: 2 / 2 ** 5 is .06.
_FEWEST_CHANGED = 6
# A difference that only more queries would show is of no use to anybody.
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the settings' row says against the first stage.

    Attributes:
        answer: ``better`` or ``worse`` where the paired test (p < .05) and the 95 % interval agree on it.
        system: the row that ranks as a search with the settings does.
        comparison: its nDCG@10 against the first stage.
        won, lost: queries with a higher and a lower nDCG@10, the greatest change first.
        equal: all other queries.
        settings: what to set, where it is no default: those of ``system``, or of a row that is better still; None:
            nothing, for reranking does not show a gain.
        lines: the verdict in three lines: by how much, which queries and at which cost, what to set.
    """

    answer: Answer
    system: System
    comparison: Comparison
    won: tuple[str, ...]
    lost: tuple[str, ...]
    equal: tuple[str, ...]
    settings: Mapping[str, Any] | None
    lines: tuple[str, str, str]


def verdict_of(report: Report, settings: Settings) -> Verdict | None:
    """The verdict on the settings that a report was measured with; None: it has no row that a setting gives.

    Args:
        report: with values per query.
        settings: see ``meaning``.
    """
    system = as_set(report, settings)
    first = next(own for own in report.systems if own.name == FIRST_STAGE)
    if system is None or system.comparison is None:
        return None
    comparison = system.comparison
    changes = {query: value - first.per_query[query] for query, value in system.per_query.items()}
    by_size = sorted(changes, key=lambda query: -abs(changes[query]))
    won = tuple(query for query in by_size if changes[query] > 0)
    lost = tuple(query for query in by_size if changes[query] < 0)
    answer = answer_of(comparison)
    best, gain = _better_still(report, settings, system)
    chosen = best or (system if answer == "better" else None)
    wanted = None if chosen is None else to_set(meaning(chosen, report, settings), settings)
    if best is not None and gain is not None:
        advice = (
            f"Set: {assigned(wanted)}. Its row {best.label()} is {gain.difference:+.4f} above these settings "
            f"(p = {gain.p_value:.4f}); check it on other queries."
        )
    elif answer == "better":
        advice = f"Set: {assigned(wanted)}."
    elif answer == "worse":
        advice = (
            "Set: nothing, keep the first stage. A router of your own may help: rh-connector train FOLDER:train "
            "docs.jsonl:made"
        )
    else:
        advice = f"Set: nothing. {_how_many(comparison, report.queries, len(won) + len(lost))}"
    fusion = (meaning(system, report, settings).settings or {}).get("rerank.fusion")
    if fusion != settings.rerank.fusion:
        advice += f" Not measured: rerank.fusion={settings.rerank.fusion}."
    if settings.cascade.model is not None and settings.cascade.budget_ms is not None:
        advice += f" Not measured: cascade.budget_ms={settings.cascade.budget_ms}."
    return Verdict(
        answer=answer,
        system=system,
        comparison=comparison,
        won=won,
        lost=lost,
        equal=tuple(query for query in changes if not changes[query]),
        settings=wanted,
        lines=(
            by_how_much(comparison, first.measures[MEASURES[0]], system.measures[MEASURES[0]]),
            f"Of {_counted(report.queries)} {len(won)} won, {len(lost)} lost, "
            f"{len(changes) - len(won) - len(lost)} equal. {_cost(system)}",
            advice,
        ),
    )


def assigned(settings: Mapping[str, Any] | None) -> str:
    """Settings on one line, for reading."""
    return (
        ", ".join(assignment(key, value) for key, value in (settings or {}).items())
        or "nothing, the defaults do this"
    )


def answer_of(comparison: Comparison) -> Answer:
    """``better`` or ``worse`` where the paired test (p < .05) and the 95 % interval agree on it."""
    low, high = comparison.interval
    if comparison.p_value < _SIGNIFICANT and low > 0:
        return "better"
    return "worse" if comparison.p_value < _SIGNIFICANT and high < 0 else "no difference"


def by_how_much(comparison: Comparison, before: float, after: float) -> str:
    """The verdict's first line.

    Args:
        comparison: of nDCG@10 per query, reranked against the first stage.
        before, after: its means.
    """
    low, high = comparison.interval
    said = {
        "better": "Better than the first stage",
        "no difference": "No difference to the first stage that shows",
        "worse": "Worse than the first stage",
    }[answer_of(comparison)]
    return (
        f"{said}: {MEASURES[0]} from {before:.4f} to {after:.4f}, {comparison.difference:+.4f} (95 % interval "
        f"{low:+.4f} to {high:+.4f}, p = {comparison.p_value:.4f})."
    )


def _cost(system: System) -> str:
    if system.seconds_per_query is None or system.seconds_cached is None:
        return "No times were taken."
    return (
        f"A search takes {system.seconds_per_query:.2f} s longer, {system.seconds_cached:.2f} s where its documents "
        f"are cached."
    )


def _better_still(report: Report, settings: Settings, system: System) -> tuple[System | None, Comparison | None]:
    """The row that beats the settings' own by most; the more rows are tried, the surer it must be (Bonferroni)."""
    others = [
        own
        for own in report.systems
        if own is not system and meaning(own, report, settings).settings is not None and own.comparison is not None
    ]
    seed = report.provenance.seed
    found = [(own, compare(own.per_query, system.per_query, seed)) for own in others]
    surely = [
        (own, gain)
        for own, gain in found
        if gain.p_value < _SIGNIFICANT / len(others)
        and gain.interval[0] > 0
        # Better than what is no better than the first stage is not yet worth anything.
        and own.comparison is not None
        and answer_of(own.comparison) == "better"
    ]
    return max(surely, key=lambda each: each[1].difference, default=(None, None))


def _how_many(comparison: Comparison, queries: int, changed: int) -> str:
    """About how many queries would show a difference of this size: the interval shrinks with their square root."""
    low, high = comparison.interval
    if queries < _FEWEST:
        return f"{_counted(queries)} cannot tell; judge at least 50."
    if not comparison.difference:
        return "The mean over the queries is the same."
    by_interval = queries * ((high - low) / 2 / abs(comparison.difference)) ** 2
    needed = math.ceil(max(by_interval, queries * _FEWEST_CHANGED / changed))
    if needed > _MOST:
        return "The difference, if there is one, is too small to matter."
    # Two digits: it is a guess.
    digits = 10 ** max(0, len(str(needed)) - 2)
    return (
        f"About {max(math.ceil(needed / digits) * digits, queries + 1)} judged queries would show such a difference."
    )


def _counted(queries: int) -> str:
    return "1 query" if queries == 1 else f"{queries} queries"
