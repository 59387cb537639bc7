"""The runtime border: what any executor of the frozen LLM offers, in numpy on this side.

A runtime knows token ids, positions and heads. Prompts, caching, scoring and routing know nothing of it, so
that a second one (ONNX Runtime, no torch) can stand beside the torch one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["AskedWindow", "BackboneShape", "EncodedDocument", "Head", "ReadsTogether", "Runtime", "Tail"]

Head = tuple[int, int]
"""(layer, head), both from 0."""


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """What is fixed about one LLM.

    Attributes:
        family: transformers' ``model_type``.
        layers: number of decoder layers.
        heads: number of query heads a layer.
        kv_heads: number of key/value heads a layer.
        head_dim: dimension of a head.
        hidden: dimension of the hidden states.
        max_positions: longest sequence that the LLM was made for.
    """

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    max_positions: int

    def all_heads(self) -> tuple[Head, ...]:
        """Every head, by layer."""
        return tuple((layer, head) for layer in range(self.layers) for head in range(self.heads))


@runtime_checkable
class EncodedDocument(Protocol):
    """States of one passage, opaque outside of the runtime that made them.

    Attributes:
        tokens: number of tokens of the passage.
        nbytes: bytes that its arrays hold.
    """

    @property
    def tokens(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def to_bytes(self) -> bytes:
        """A self-describing copy that the runtime's ``load_document`` takes back, on this or another machine."""
        ...


@dataclass(frozen=True, slots=True)
class Tail:
    """The tail of a prompt in two variants (the query, and "N/A") that share their beginning.

    The variants are one sequence: shared ids, then the query's, then N/A's; a variant sees the shared part
    and itself. Each token stands at the position it would have if its variant were alone.

    Attributes:
        shared: ids before the query.
        variants: ids of each variant, from the query on.
        rows: float32 [groups, len(shared) + sum of len(variants)]: each group's weights over the rows;
            attention is averaged with them.
        position: position of the first shared id.
    """

    shared: tuple[int, ...]
    variants: tuple[tuple[int, ...], ...]
    rows: npt.NDArray[np.float32] = field(repr=False)
    position: int


@dataclass(frozen=True, slots=True)
class AskedWindow:
    """A tail and the documents that it is to attend to.

    Attributes:
        tail: the prompt's end.
        documents: encoded passages.
        heads: whose attention is wanted.
    """

    tail: Tail
    documents: Sequence[EncodedDocument]
    heads: Sequence[Head]


class Runtime(Protocol):
    """One loaded LLM. Thread-safe; every call is deterministic."""

    @property
    def shape(self) -> BackboneShape: ...
    @property
    def device(self) -> str:
        """``cpu``, or the accelerator's name."""
        ...

    @property
    def precision(self) -> str:
        """Number formats of the weights and of encoded documents, as in ``float32-float16``."""
        ...

    @property
    def threads(self) -> int:
        """Threads of one call on the CPU."""
        ...

    @property
    def plan(self) -> Mapping[str, str]:
        """What this machine lets it do, in words, for logs and reports; with the reason where it is slower than could
        be.

        ``runtime`` (torch, onnx), ``device`` and ``number_format`` are always there, the rest is the runtime's own.
        """
        ...

    def encode(
        self, prefix: Sequence[int], documents: Sequence[Sequence[int]], heads: Sequence[Head], *, late: bool
    ) -> Iterator[EncodedDocument]:
        """Encode passages, each alone after the prefix; yields each when it is done.

        Args:
            prefix: ids at positions 0..; every passage begins right after it.
            documents: ids of each passage, none empty.
            heads: the pool: states are kept for its layers only.
            late: keep keys of the pooled heads only (no values, no other layers).
        """
        ...

    def read(
        self,
        prefix: Sequence[int],
        tail: Tail,
        documents: Sequence[EncodedDocument],
        heads: Sequence[Head],
        *,
        late: bool,
    ) -> npt.NDArray[np.float32]:
        """Attention of the tail to the documents' tokens.

        Softmax runs over prefix, documents and the tail itself, in float32. Layers above the deepest head
        are not run.

        Returns:
            float32 [heads, groups, document tokens]: passages one after the other, in the order given.
        """
        ...

    def embed(self, tokens: Sequence[int], layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """Hidden states that enter each layer, of one short causal pass; deeper layers are not run.

        Args:
            tokens: the whole sequence.
            layers: whose entering states are wanted; 0: the input embeddings.
            start: the first token that is pooled; those before it are only seen.

        Returns:
            float32 [layers, 2, hidden]: mean over the pooled tokens, and the last token's.
        """
        ...

    def load_document(self, data: bytes) -> EncodedDocument:
        """The inverse of ``EncodedDocument.to_bytes``.

        Raises:
            BackboneError: the bytes are damaged or of another kind of backbone.
        """
        ...


@runtime_checkable
class ReadsTogether(Protocol):
    """A runtime that can read several windows in one pass."""

    @property
    def windows_together(self) -> int:
        """Most windows of a pass; 1: each needs its own on this machine."""
        ...

    def read_together(
        self, prefix: Sequence[int], windows: Sequence[AskedWindow], *, late: bool
    ) -> list[npt.NDArray[np.float32]]:
        """For each window, what ``Runtime.read`` gives of it, bit by bit (on a GPU: to rounding)."""
        ...
