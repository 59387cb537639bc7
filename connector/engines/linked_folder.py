"""An index that may only be read: tantivy wants to write a lock beside the files that it opens."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from weakref import finalize

__all__ = ["LinkedFolder"]


class LinkedFolder:
    """A temporary folder of links to the files of another, which is never written.

    Args:
        folder: the other.

    Raises:
        OSError: there is no room or right for a temporary folder either.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.path = Path(mkdtemp(prefix="rh-index-"))
        # Links alone: what they lead to stays.
        finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self.refresh()

    def refresh(self) -> None:
        """Link what whoever may write there has added since; links to what is gone do no harm."""
        for name in os.listdir(self._folder):
            # The locks are what this folder is for. Another thread may be linking the same.
            if not name.endswith(".lock"):
                with suppress(FileExistsError):
                    (self.path / name).symlink_to(self._folder / name)
