"""Another format of the same weights: does it score the built-in documents as the one that a router was made with?"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.checkpoints.file_hashes import write_json
from connector.errors import BackboneError
from connector.golden import REFERENCE_DOCUMENTS, REFERENCE_QUERIES
from connector.heads.reference import TEXTS, ReferenceScores
from connector.heads.routes import Route, route_scores
from connector.heads.signals import signal_scores

__all__ = ["TOLERANCE", "built_in_scores", "check_format", "usable"]

logger = logging.getLogger(__name__)

TOLERANCE = 0.25
"""Largest ``ReferenceScores.difference`` that is accepted, of a file with several head sets their mean.

docs/models.md tells how it was chosen.
"""


def built_in_scores(reader: Reader, route: Route) -> npt.NDArray[np.float64]:
    """Head scores of the built-in documents: float64 [queries, documents].

    Raises:
        BackboneError: the LLM failed, or cannot give what the route needs.
    """
    rows = []
    for query in REFERENCE_QUERIES:
        reading = reader.read(query, REFERENCE_DOCUMENTS, route.needs)
        rows.append(route_scores(route, signal_scores(route.signals, reading), reading.documents)[0])
    return np.array(rows)


def usable(reference: ReferenceScores | None) -> ReferenceScores | None:
    """Scores that were stored, where they are of the documents that are built in now."""
    return reference if reference is not None and reference.texts == TEXTS else None


def check_format(
    fingerprint: str,
    reader: Reader | None,
    stored: Sequence[tuple[Route, ReferenceScores]],
    cache: Path,
    source: str,
    model: str,
) -> None:
    """Refuse heads of another model; what was found is remembered for this machine.

    Args:
        fingerprint: of the other format.
        reader: what reads in it; None: what was never checked passes.
        stored: routes, and their scores in the format that they were made with.
        cache: the cache folder.
        source: what errors call the heads: their file's name.
        model: the model that they were made for.

    Raises:
        BackboneError: the scores are too far from the stored ones.
    """
    key = hashlib.sha256(repr((fingerprint, [one for _, one in stored])).encode()).hexdigest()
    memory = cache / "formats" / f"{key[:32]}.json"
    found = _remembered(memory)
    if found is None:
        if reader is None:
            return
        found = fmean(one.difference(built_in_scores(reader, route)) for route, one in stored)
        with suppress(OSError):
            write_json(memory, {"difference": found, "heads": source, "fingerprint": fingerprint})
        logger.info("%s: another format of %s; built-in documents score %.1f %% apart", source, model, found * 100)
    if not found <= TOLERANCE:
        raise BackboneError(
            f"{source} was made for {model}, and this backbone scores the built-in documents too differently to be "
            f"another format of it: {found:.0%} of their spread, at most {TOLERANCE:.0%} are taken; train one for it "
            "(rh-connector train), or set router.bundle to one that fits"
        )


def _remembered(memory: Path) -> float | None:
    try:
        return float(json.loads(memory.read_text(encoding="utf-8"))["difference"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
