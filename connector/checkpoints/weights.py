"""Weights read tensor by tensor, as float32 in numpy: a folder's safetensors files, without any library."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError

__all__ = ["Array", "FolderWeights", "Weights"]

Array = npt.NDArray[np.float32]
# bfloat16 is the upper half of a float32, and numpy has no name for it.
_FORMATS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}


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


class _Place(NamedTuple):
    file: Path
    format: str
    shape: tuple[int, ...]
    offset: int


class FolderWeights:
    """Those of a checkpoint's safetensors files.

    Args:
        checkpoint: the folder.

    Raises:
        BackboneError: a file is damaged or missing.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config()
        self._places: dict[str, _Place] = {}
        for file in checkpoint.weight_files():
            self._places.update(_places(file))

    @property
    def config(self) -> Mapping[str, Any]:
        return self._config

    @property
    def names(self) -> Collection[str]:
        return self._places.keys()

    def tensor(self, name: str) -> Array:
        """See ``Weights``."""
        if name not in self._places:
            raise BackboneError(f"the weights hold no tensor {name}; fetch the model again")
        place = self._places[name]
        stored = _FORMATS.get(place.format)
        if stored is None:
            raise BackboneError(
                f"{place.file}: {name} is stored as {place.format}, which is not read; "
                f"take weights in {', '.join(_FORMATS)}"
            )
        try:
            flat = np.fromfile(place.file, stored, math.prod(place.shape), offset=place.offset)
            if place.format == "BF16":
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
            found: Array = flat.reshape(place.shape).astype(np.float32, copy=False)
            return found
        except (OSError, ValueError) as error:
            raise BackboneError(f"cannot read {name} from {place.file}: {error}; fetch the model again") from None


def _places(file: Path) -> dict[str, _Place]:
    """Where each tensor of a safetensors file lies: eight bytes with the header's length, the header, the numbers."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        return {
            name: _Place(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise BackboneError(f"{file} is damaged ({error}); fetch the model again") from None
