"""Is there enough to learn from, and what does it gain?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.errors import DataError
from connector.evaluation.answering.verdict import by_how_much
from connector.evaluation.progress import Progress
from connector.evaluation.significance import Comparison, compare

__all__ = ["FEW", "FEWEST", "Gain", "enough"]

FEWEST = 10
"""With fewer train queries, what is learned is chance."""
FEW = 100
"""With fewer, the shipped router, which learned from thousands, is as a rule better."""


def enough(queries: int, force: bool, progress: Progress) -> None:
    """Refuse to train on next to nothing, and warn where there is little.

    Args:
        queries: that teach something.
        force: warn only.
        progress: told the warning.

    Raises:
        DataError: fewer than ``FEWEST``.
    """
    if queries < FEWEST and not force:
        raise DataError(
            f"train: {queries} windows hold a relevant document and another: fewer than {FEWEST} queries teach "
            f"nothing that holds for others. Judge more queries, make more of your documents (FILE.jsonl:made, "
            f"--queries), or train all the same with --force"
        )
    if queries < FEW:
        progress.say(
            f"Warning: {queries} queries are little to learn from; with fewer than {FEW}, the router that comes with "
            f"the model may well be better. Compare them with: rh-connector evaluate FOLDER --bundle FILE"
        )


@dataclass(frozen=True, slots=True)
class Gain:
    """What a router gains over the first stage, on train queries that it was not fitted on.

    Attributes:
        queries: how many.
        before, after: mean nDCG@10 of the first stage, and of the router fused with it.
        comparison: of both, paired by query.
    """

    queries: int
    before: float
    after: float
    comparison: Comparison

    @classmethod
    def of(cls, before: Mapping[str, float], after: Mapping[str, float], seed: int) -> Gain:
        """From nDCG@10 of each query.

        Raises:
            DataError: there is no query.
        """
        found = compare(after, before, seed)
        return cls(len(before), sum(before.values()) / len(before), sum(after.values()) / len(after), found)

    def told(self) -> str:
        """In a sentence, as ``evaluate`` says it."""
        said = by_how_much(self.comparison, self.before, self.after)
        return f"Cross-validated, on {self.queries} train queries that were held out: {said[:1].lower()}{said[1:]}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, rounded to four places."""
        return {
            "queries": self.queries,
            "before": round(self.before, 4),
            "after": round(self.after, 4),
            "difference": round(self.comparison.difference, 4),
            "interval": [round(value, 4) for value in self.comparison.interval],
            "p_value": round(self.comparison.p_value, 4),
        }
