"""How far the indexing of a source has come, so that the same command continues where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connector.engines.index_record import cause_and_mend
from connector.errors import EngineError
from connector.whole_files import replacing

__all__ = ["ProgressFile", "Reached"]

_NAME = "rh-progress.json"


@dataclass(frozen=True, slots=True)
class Reached:
    """What of a source is in the index.

    Attributes:
        line: the last line that is done with.
        indexed: documents of the lines up to there that were indexed.
        replaced: those of them whose id was there before.
        skipped: lines that were reported and left out.
    """

    line: int = 0
    indexed: int = 0
    replaced: int = 0
    skipped: int = 0


class ProgressFile:
    """A small file beside the index. It is written after each commit, so it is never ahead of the index; where it
    is behind, documents are indexed once more, which changes nothing.

    Args:
        folder: of the index.
        source: what tells the source from others; None: it cannot be continued.
    """

    def __init__(self, folder: Path, source: Mapping[str, Any] | None) -> None:
        self._path = folder / _NAME
        self._source = source

    def read(self) -> Reached:
        """Where the last, interrupted indexing of this very source ended; else the beginning."""
        if self._source is None:
            return Reached()
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["source"] != self._source:
                return Reached()
            reached = Reached(**{name: int(value) for name, value in stored["reached"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Damaged or of another version: from the beginning is always right.
            return Reached()
        return reached if min(asdict(reached).values()) >= 0 else Reached()

    def write(self, reached: Reached) -> None:
        """Keep how far it came.

        Raises:
            EngineError: the folder cannot be written.
        """
        if self._source is None:
            return
        try:
            with replacing(self._path) as part:
                part.write_text(json.dumps({"source": self._source, "reached": asdict(reached)}), encoding="utf-8")
        except OSError as error:
            told = cause_and_mend(error, self._path.parent)
            raise EngineError(f"cannot write {self._path}: {told}") from None

    def clear(self) -> None:
        """Forget it: the source is indexed to its end.

        Raises:
            EngineError: the file cannot be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise EngineError(f"cannot remove {self._path}: {cause_and_mend(error)}") from None
