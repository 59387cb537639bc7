"""What the demo measures: questions with known answers, before and after reranking.

The questions and how they were chosen stand in ``demo_questions.toml``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.evaluation.answering.verdict import answer_of, by_how_much
from connector.evaluation.significance import compare

__all__ = ["Found", "Summary", "demo_questions", "examples", "questions_file", "summary_of"]

_CUTOFF = 10


def questions_file() -> Path:
    """The file of the questions, wherever this copy is installed; from here, if it is below."""
    path = Path(__file__).with_name("demo_questions.toml")
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def demo_questions() -> dict[str, str]:
    """Id of the document that answers -> question, in the file's order."""
    questions: dict[str, str] = tomllib.loads(questions_file().read_text(encoding="utf-8"))["questions"]
    return questions


@dataclass(frozen=True, slots=True)
class Found:
    """Where the document that answers a question stands.

    Attributes:
        question: its text.
        document: id of that document.
        before, after: its place in the first stage and in the reranked list, from 1; None: it is not there.
    """

    question: str
    document: str
    before: int | None
    after: int | None

    @property
    def gain(self) -> float:
        """Of nDCG@10."""
        return _ndcg(self.after) - _ndcg(self.before)


@dataclass(frozen=True, slots=True)
class Summary:
    """What reranking does to all questions.

    Attributes:
        questions: how many.
        ndcg, mrr: nDCG@10 and MRR@10, before and after.
        first: questions whose first hit is the right one, before and after.
        found: questions whose right document the first stage finds at all.
        won, lost, equal: questions with a higher, a lower and the same nDCG@10.
        answer: ``better``, ``no difference``, ``worse``; see ``answer_of``.
        p_value, interval: see ``Comparison``.
        lines: the summary as ``evaluate`` words it.
    """

    questions: int
    ndcg: tuple[float, float]
    mrr: tuple[float, float]
    first: tuple[int, int]
    found: int
    won: int
    lost: int
    equal: int
    answer: str
    p_value: float
    interval: tuple[float, float]
    lines: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, rounded to four places."""
        both = {"nDCG@10": self.ndcg, "MRR@10": self.mrr}
        return {
            "questions": self.questions,
            **{name: [round(value, 4) for value in values] for name, values in both.items()},
            "first_hit_right": list(self.first),
            "found": self.found,
            "won": self.won,
            "lost": self.lost,
            "equal": self.equal,
            "answer": self.answer,
            "p_value": round(self.p_value, 4),
            "interval": [round(value, 4) for value in self.interval],
        }


def summary_of(found: Sequence[Found], window: int) -> Summary:
    """The summary over all questions.

    Args:
        found: one each; ids of documents are unique.
        window: hits that were searched and reranked.
    """
    before = {each.document: _ndcg(each.before) for each in found}
    after = {each.document: _ndcg(each.after) for each in found}
    comparison = compare(after, before)
    count = len(found)
    ndcg = (sum(before.values()) / count, sum(after.values()) / count)
    mrr = (
        sum(_reciprocal(each.before) for each in found) / count,
        sum(_reciprocal(each.after) for each in found) / count,
    )
    first = (sum(each.before == 1 for each in found), sum(each.after == 1 for each in found))
    there = sum(each.before is not None for each in found)
    won, lost = sum(each.gain > 0 for each in found), sum(each.gain < 0 for each in found)
    equal = count - won - lost
    return Summary(
        questions=count,
        ndcg=ndcg,
        mrr=mrr,
        first=first,
        found=there,
        won=won,
        lost=lost,
        equal=equal,
        answer=answer_of(comparison),
        p_value=comparison.p_value,
        interval=comparison.interval,
        lines=(
            by_how_much(comparison, *ndcg),
            f"Of {count} questions {won} won, {lost} lost, {equal} equal. The first hit is right for "
            f"{first[1]}, without reranking for {first[0]}. MRR@10: {mrr[1]:.4f}, without {mrr[0]:.4f}.",
            f"For {count - there} the right document is not among the {window} hits of the first stage: reranking "
            f"cannot help there, and they count.",
        ),
    )


def examples(found: Sequence[Found]) -> Mapping[str, Found]:
    """Three questions by a fixed rule: the greatest gain, the greatest loss, and the one in the middle of the rest.

    Equal ones in the order of their file. Where none was won or lost, that example is missing.
    """
    by_gain = sorted(found, key=lambda each: -each.gain)
    best, worst = by_gain[0], min(found, key=lambda each: each.gain)
    chosen = {}
    if best.gain > 0:
        chosen["the greatest gain"] = best
    if worst.gain < 0:
        chosen["the greatest loss"] = worst
    rest = [each for each in by_gain if each not in chosen.values()]
    if rest:
        chosen["the middle of all others"] = rest[len(rest) // 2]
    return chosen


def _ndcg(place: int | None) -> float:
    # One document is right, so the best possible sum is 1.
    return 1 / math.log2(1 + place) if place is not None and place <= _CUTOFF else 0.0


def _reciprocal(place: int | None) -> float:
    return 1 / place if place is not None and place <= _CUTOFF else 0.0
