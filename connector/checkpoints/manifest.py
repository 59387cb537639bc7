"""What is written beside a converted checkpoint: where it came from, and what its files must be."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from connector.checkpoints.file_hashes import changed_file, write_json

__all__ = ["CONVERSION", "MANIFEST", "Manifest", "gguf_digest"]

MANIFEST = "manifest.json"

# Raise this when the conversion gives other numbers or other token ids: it is part of every fingerprint.
CONVERSION = 1


def gguf_digest(sha256: str, conversion: int = CONVERSION) -> str:
    """What identifies a GGUF file's model, however it was converted; see ``Checkpoint.digest``.

    Args:
        sha256: of the GGUF file.
        conversion: version of the conversion.
    """
    return hashlib.sha256(f"gguf {sha256} conversion {conversion}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Origin and files of a converted checkpoint.

    Attributes:
        name: catalogue name, or name of the GGUF file.
        source: where the GGUF file came from.
        licence: SPDX identifier or name of the terms; None where it isn't known.
        gguf_sha256: of the GGUF file.
        conversion: ``CONVERSION`` at the time.
        files: file name -> its SHA-256.
        sizes: file name -> its bytes.
    """

    name: str
    source: str
    licence: str | None
    gguf_sha256: str
    conversion: int
    files: dict[str, str]
    sizes: dict[str, int]

    def write(self, folder: Path) -> None:
        """Write it into the checkpoint's folder."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder; None where there is none, or not one of ours."""
        try:
            return cls(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def damage(self, folder: Path, cache: Path | None = None, *, fresh: bool = False) -> str | None:
        """The first file that is missing, or is not what was written, in words; None: there is none.

        Args:
            folder: of the checkpoint.
            cache, fresh: see ``file_hashes``.
        """
        for name, size in self.sizes.items():
            try:
                found = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if found != size:
                return f"{name} has {found} of {size} bytes"
        try:
            changed = changed_file({folder / name: value for name, value in self.files.items()}, cache, fresh=fresh)
        except OSError as error:
            return f"{error.filename} cannot be read: {error.strerror}"
        return None if changed is None else f"{changed.name} is not what was pulled"
