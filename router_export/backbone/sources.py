"""What an export is made from: a checkpoint folder, or a GGUF file that was never converted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.gguf_tokenizer import write_tokenizer
from connector.checkpoints.gguf_weights import GgufWeights
from connector.checkpoints.manifest import gguf_digest
from connector.checkpoints.weights import FolderWeights, Weights

__all__ = ["Source"]

_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Source:
    """One LLM on disk.

    Attributes:
        name: of the model.
        digest: of the checkpoint that it is, or that it would be converted to.
        weights: read one by one.
        write_texts: puts tokenizer and chat template into a folder.
        checkpoint: the folder that torch reads; None: there is none.
    """

    name: str
    digest: str
    weights: Weights
    write_texts: Callable[[Path], None]
    checkpoint: Checkpoint | None = None

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Source:
        """A folder with safetensors weights.

        Raises:
            BackboneError: a file is missing or damaged.
        """

        def copy_texts(folder: Path) -> None:
            for name in _TEXT_FILES:
                if (checkpoint.path / name).is_file():
                    shutil.copyfile(checkpoint.path / name, folder / name)

        return cls(checkpoint.name, checkpoint.digest(), FolderWeights(checkpoint), copy_texts, checkpoint)

    @classmethod
    def of_gguf(cls, path: Path, name: str, sha256: str) -> Source:
        """A GGUF file.

        Args:
            path: the file.
            name: of the model.
            sha256: of the file.

        Raises:
            BackboneError: see ``GgufWeights``.
            MissingExtraError: gguf is not installed.
        """
        weights = GgufWeights(path)

        def write_texts(folder: Path) -> None:
            write_tokenizer(weights, folder)

        return cls(name, gguf_digest(sha256), weights, write_texts)
