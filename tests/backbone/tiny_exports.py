"""Exports of tiny models for several test modules: each is traced once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from connector.checkpoints.checkpoint import Checkpoint
from router_export import export_backbone
from tests.backbone.tiny import save_tiny

__all__ = ["TinyExports"]


class TinyExports:
    """Makes what is asked for, and gives the same folders when asked again: read them; copy them to change them.

    Args:
        root: an empty folder.
        texts: a folder with the tokenizer and the chat template that every model gets.
    """

    def __init__(self, root: Path, texts: Path) -> None:
        self._root = root
        self._texts = texts

    def checkpoint(self, family: str, layers: int = 4) -> Checkpoint:
        """A random model of that family, see ``save_tiny``."""
        folder = self._root / f"{family}-{layers}"
        if not folder.exists():
            save_tiny(family, folder, layers)
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copy(self._texts / name, folder)
        return Checkpoint.open(folder, family)

    def exported(
        self, checkpoint: Checkpoint, layers: int | None = None, precision: Literal["float32", "int8"] = "float32"
    ) -> Path:
        """The export of its first layers (None: of all), in a folder of its own."""
        folder = self._root / f"{checkpoint.digest()}-{layers}-{precision}" / "export"
        if not folder.exists():
            export_backbone(checkpoint, folder, layers, precision)
        return folder
