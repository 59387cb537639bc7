"""Weights read tensor by tensor, as float32 in numpy: those of a folder's safetensors files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from connector.checkpoints.checkpoint import Checkpoint, open_tensors
from connector.errors import BackboneError

__all__ = ["Array", "FolderWeights", "Weights"]

Array = npt.NDArray[np.float32]
_FORMATS = ("F32", "F16", "BF16", "F64")


class Weights(Protocol):
    """One LLM's weights under the names that transformers gives them; a tensor is read when it is asked for."""

    @property
    def config(self) -> Mapping[str, Any]:
        """As in ``config.json``."""
        ...

    @property
    def names(self) -> Collection[str]:
        """Of all tensors."""
        ...

    def tensor(self, name: str) -> Array:
        """One tensor, float32.

        Raises:
            BackboneError: there is none of that name, or it is damaged.
        """
        ...


class FolderWeights:
    """Those of a checkpoint's safetensors files.

    Args:
        checkpoint: the folder.

    Raises:
        BackboneError: a file is damaged or missing.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config()
        self._files: dict[str, Path] = {}
        for file in checkpoint.weight_files():
            with open_tensors(file) as tensors:
                self._files.update(dict.fromkeys(tensors.keys(), file))

    @property
    def config(self) -> Mapping[str, Any]:
        return self._config

    @property
    def names(self) -> Collection[str]:
        return self._files.keys()

    def tensor(self, name: str) -> Array:
        """See ``Weights``."""
        if name not in self._files:
            raise BackboneError(f"the weights hold no tensor {name}; fetch the model again")
        with open_tensors(self._files[name]) as tensors:
            stored = tensors.get_slice(name).get_dtype()
            if stored not in _FORMATS:
                raise BackboneError(
                    f"{self._files[name]}: {name} is stored as {stored}, which is not read; "
                    f"take weights in {', '.join(_FORMATS)}"
                )
            found: Array = tensors.get_tensor(name).astype(np.float32, copy=False)
            return found
