"""Encoded passages of the ONNX runtime: keys and values as float32, float16, or int8 with scales, in numpy."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from connector.errors import BackboneError

__all__ = ["ArrayDtype", "Kept", "OnnxEncodedDocument", "StoredArray", "same_kept"]

ArrayDtype = Literal["float32", "float16", "int8"]
Kept = tuple[tuple[int, tuple[int, ...]], ...]
"""(layer, its kv heads) of what is held, by layer."""
_FORMAT = "rh-encoded-onnx-1"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Keys or values of a passage, [kv heads of all layers, tokens, d], as they are kept.

    int8 has one scale for each head and channel: keys have a few channels far larger than the others.
    """

    data: npt.NDArray[Any]
    scale: npt.NDArray[np.float32] | None = None

    @classmethod
    def store(cls, array: npt.NDArray[np.float32], dtype: ArrayDtype) -> StoredArray:
        """Round a float32 [kv heads, tokens, d] array to the storage format.

        Raises:
            BackboneError: the model gave a number that is not finite, or too large for float16.
        """
        scale = None
        if dtype == "int8":
            scale = np.maximum(np.abs(array).max(axis=1, keepdims=True) / np.float32(127), np.float32(1e-12))
            data: npt.NDArray[Any] = np.rint(array / scale).astype(np.int8) if np.isfinite(scale).all() else array
        else:
            with np.errstate(over="ignore"):
                data = array.astype(dtype)
        if not np.isfinite(data if scale is None else scale).all():
            raise BackboneError(
                f"the backbone gave keys or values that {dtype} cannot hold; set cache.dtype to float32, "
                "or check the weights"
            )
        return cls(data, scale)

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes) + (0 if self.scale is None else int(self.scale.nbytes))

    def widen(self, rows: slice, out: npt.NDArray[np.float32]) -> None:
        """Write some heads as float32 to ``out`` [heads, tokens, d]: the one copy that is made of what is cached."""
        if self.scale is None:
            out[...] = self.data[rows]
        else:
            np.multiply(self.data[rows], self.scale[rows], out=out)


@dataclass(frozen=True)
class OnnxEncodedDocument:
    """States of one passage.

    Attributes:
        tokens: tokens of the passage.
        kept: what ``keys`` holds, in its order.
        keys: of the layers in ``kept``.
        values: of all kv heads of the layers before the deepest; None for late.
        kind: what made it (family, shape, weights); ``from_bytes`` refuses another.
    """

    tokens: int
    kept: Kept
    keys: StoredArray
    values: StoredArray | None
    kind: str

    @cached_property
    def nbytes(self) -> int:
        return self.keys.nbytes + (0 if self.values is None else self.values.nbytes)

    @cached_property
    def places(self) -> Mapping[int, slice]:
        """Layer -> its rows of ``keys``."""
        places, start = {}, 0
        for layer, heads in self.kept:
            places[layer] = slice(start, start + len(heads))
            start += len(heads)
        return places

    def to_bytes(self) -> bytes:
        """numpy's archive (with checksums) and a metadata record."""
        record = {"format": _FORMAT, "tokens": self.tokens, "kind": self.kind, "kept": self.kept}
        arrays: dict[str, npt.NDArray[Any]] = {"record": np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)}
        for name, part in (("keys", self.keys), ("values", self.values)):
            if part is not None:
                arrays[name] = part.data
                if part.scale is not None:
                    arrays[f"{name}_scale"] = part.scale
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, kind: str) -> OnnxEncodedDocument:
        """The inverse of ``to_bytes``.

        Raises:
            BackboneError: damaged bytes, another format, or another kind of backbone.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            record = json.loads(arrays["record"].tobytes())
            kept: Kept = tuple((layer, tuple(heads)) for layer, heads in record["kept"])
            keys = StoredArray(arrays["keys"], arrays.get("keys_scale"))
            values = StoredArray(arrays["values"], arrays.get("values_scale")) if "values" in arrays else None
            found, made_by, tokens = record["format"], record["kind"], int(record["tokens"])
            if keys.data.shape[:2] != (sum(len(heads) for _, heads in kept), tokens):
                raise ValueError("its arrays do not fit its record")
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise BackboneError(f"an encoded document is damaged: {error}; drop it and encode again") from None
        if found != _FORMAT or made_by != kind:
            raise BackboneError(
                f"an encoded document was made by '{made_by}' ({found}), this backbone is '{kind}' ({_FORMAT}); "
                "drop it and encode again"
            )
        return cls(tokens, kept, keys, values, kind)


def same_kept(documents: Sequence[OnnxEncodedDocument]) -> Kept:
    """What the documents of a window hold.

    Raises:
        BackboneError: they were encoded for different pools.
    """
    if any(document.kept != documents[0].kept for document in documents):
        raise BackboneError("documents of one window were encoded for different heads; clear the cache")
    return documents[0].kept
