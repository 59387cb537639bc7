"""The runtime border: what any executor of the frozen LLM offers, in numpy on this side.

A runtime knows token ids, positions and heads. Prompts, caching, scoring and routing know nothing of it, so
that a second one (ONNX Runtime, no torch) can stand beside the torch one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.prompt.tail import Tail, TokenIds
from connector.checkpoints.shape import BackboneShape
from connector.heads.needs import Head, Needs
from connector.sections import Layout

__all__ = [
    "DeviceStatistics",
    "EncodedDocument",
    "Head",
    "Needs",
    "Observations",
    "ReadRequest",
    "Runtime",
    "torch_is_installed",
]


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
class ReadRequest:
    """A tail, the documents that it is to attend to, and what is wanted of that.

    Attributes:
        tail: the prompt's end. In the layout ``solo`` its positions count from the end of each document.
        documents: encoded passages.
        needs: what is wanted.
    """

    tail: Tail
    documents: Sequence[EncodedDocument]
    needs: Needs

    @property
    def tokens(self) -> int:
        """Tokens of the documents, which is what reading them costs."""
        return sum(document.tokens for document in self.documents)


def _nothing() -> npt.NDArray[np.float32]:
    return np.zeros((0, 0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Observations:
    """What came of a request.

    Attributes:
        rows: float32 [heads, groups, document tokens]: attention to the passages, one after the other.
        states: float32 [layers, passages, hidden]: hidden states that enter each layer, mean of the query's tokens.
        log_probabilities: float32 [passages, query tokens]: of each of the query's tokens, behind the passage.
    """

    rows: npt.NDArray[np.float32]
    states: npt.NDArray[np.float32] = field(default_factory=_nothing)
    log_probabilities: npt.NDArray[np.float32] = field(default_factory=_nothing)

    @property
    def arrays(self) -> tuple[npt.NDArray[np.float32], ...]:
        """All of it."""
        return self.rows, self.states, self.log_probabilities

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """An accelerator's memory now, in bytes.

    Attributes:
        name: of the device.
        free, total: of the device, or of the slice of it that this process has; 0: it does not tell.
        process: what this process took of it; 0: it does not tell.
        kept, limit: encoded passages that stay there, and most of them.
        pinned: encoded passages in host memory that the device copies from by itself.
        shortages: how often memory did not suffice, and less was done at once.
    """

    name: str
    free: int
    total: int
    process: int
    kept: int
    limit: int
    pinned: int
    shortages: int


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
    def readable_layers(self) -> int:
        """Layers that can be run: all, or those that an export holds. With all, likelihoods can be had too."""
        ...

    @property
    def requests_together(self) -> int:
        """Most requests that ``read`` takes in one pass; 1: each needs its own on this machine."""
        ...

    @property
    def plan(self) -> Mapping[str, str]:
        """What this machine lets it do, in words, for logs and reports; with the reason where it is slower than could
        be.

        ``runtime`` (torch, onnx), ``device`` and ``number_format`` are always there, the rest is the runtime's own.
        """
        ...

    def device_statistics(self) -> DeviceStatistics | None:
        """The accelerator's memory; None: there is none. ``pinned`` is the document cache's to tell."""
        ...

    def lookups(self) -> Mapping[str, Lookups]:
        """Look-ups of its own caches.

        ``prefixes``: states of the prompt's beginning; ``tails``: of its end without the query (layout ``late``).
        """
        ...

    def encode(
        self, prefix: Sequence[int], documents: Sequence[TokenIds], pool: Needs, *, layout: Layout
    ) -> Iterator[EncodedDocument]:
        """Encode passages, each alone after the prefix; yields each when it is done.

        Args:
            prefix: ids at positions 0..; every passage begins right after it.
            documents: int32 [tokens], ids of each passage, none empty.
            pool: what may be wanted of them: states are kept for its layers only.
            layout: ``late`` keeps keys of the pooled heads only (no values, no other layers).
        """
        ...

    def read(self, prefix: Sequence[int], requests: Sequence[ReadRequest], *, layout: Layout) -> list[Observations]:
        """Attention of tails to their documents' tokens; in the layout ``solo`` also states and likelihoods.

        Softmax runs over prefix, documents and the tail itself, in float32. Layers above the deepest head
        are not run. What a request gets does not depend on the others, bit by bit (on a GPU: to rounding).

        Args:
            prefix: ids at positions 0.. of every prompt.
            requests: one, or several that are read in one pass where that changes no bit.
            layout: in which the documents were encoded; ``joint``: for exactly these needs, the whole prompt as one.

        Returns:
            What came of each request, passages in the order given.
        """
        ...

    def embed(self, tokens: TokenIds, layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """Hidden states that enter each layer, of one short causal pass; deeper layers are not run.

        Args:
            tokens: int32 [tokens], the whole sequence.
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


def torch_is_installed() -> bool:
    """Whether torch can run an LLM here; nothing is loaded for it."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
    except (ImportError, ValueError):
        # What stands in the way of imports, or half an installation.
        return False
