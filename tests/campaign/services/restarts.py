"""SIGKILL at any moment, as from the kernel that is short of memory, and the same command on the same files again.

The moments are drawn, while requests run and the document cache is written. ``overruns`` lets the kernel choose them.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from connector.backbone.caching.sqlite_store import store_path
from tests.campaign.rows import Row, Tally
from tests.campaign.services.serving import (
    START_S,
    NotServing,
    answers_alike,
    damaged,
    files_of_its_own,
    kept_busy,
    serving_process,
)

__all__ = ["restarts"]

_PART = "out of memory"
_LONGEST_S = 0.5
_DOCUMENTS = 3


def restarts(rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row.

    Args:
        rounds: kills.
        seed: of the moments and the documents.
    """
    drawn = random.Random(seed)
    tally, answered = Tally(), 0
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        cache, environment = files_of_its_own(Path(folder))
        known: dict[str, float] = {}
        for number in range(rounds):
            before = len(known)
            try:
                lost = _killed(environment, known, drawn, number)
            except NotServing as error:
                lost = str(error)
            answered += (len(known) - before) // _DOCUMENTS
            tally.add(lost or damaged(store_path(cache)))
    note = f"{answered:,} answers before the kills; each start gave the documents before it the same scores"
    yield tally.row(_PART, "a service that serves and caches is killed and started again", note)


def _killed(environment: Mapping[str, str], known: dict[str, float], drawn: random.Random, number: int) -> str | None:
    """Start a service, ask it what one before it was asked, and kill it under load: what was lost."""
    with serving_process(environment) as (process, client):
        if lost := answers_alike(client, known):
            return lost
        before = len(known)
        with kept_busy(client, known, str(number), _DOCUMENTS):
            wanted, until = drawn.randint(0, 4) * _DOCUMENTS, time.monotonic() + START_S
            while len(known) - before < wanted and time.monotonic() < until:
                time.sleep(0.01)
            # While the next ones are read, and the last ones are written.
            time.sleep(drawn.uniform(0, _LONGEST_S))
            process.kill()
    return None
