"""Is there enough to learn from?"""

from __future__ import annotations

from connector.errors import DataError
from connector.evaluation.progress import Progress

__all__ = ["FEW", "FEWEST", "enough"]

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
