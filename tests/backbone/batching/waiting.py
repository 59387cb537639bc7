"""A request's scope and the real runtime, each of which tells a test how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.runtime import EncodedDocument, Needs, Observations, ReadRequest
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.cancelling import CancelScope
from connector.checkpoints.checkpoint import Checkpoint
from connector.heads.needs import Head
from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS
from connector.sections import Layout

LONG = 60
"""Seconds after which a test that waits has failed."""


class WatchedScope(CancelScope):
    """Tells when its request begins to wait: then it asks how long it may."""

    def __init__(self) -> None:
        super().__init__()
        self._waits = threading.Event()

    def remaining(self) -> float:
        self._waits.set()
        return super().remaining()

    def until_it_waits(self) -> None:
        assert self._waits.wait(LONG)

    def end(self) -> None:
        """Its deadline passes; nobody is woken by that."""
        self.deadline = 0.0


class Watched(TorchRuntime):
    """The real runtime; counts what it does, and may be held or made to fail."""

    def watch(self) -> None:
        """Begin anew.

        The lists hold what was encoded, and how many passages or windows each call had. What happens ``when_encoded``
        comes before the passage is handed on; the call that would hand on passage ``hold_at`` is held.
        """
        self.encoded: list[tuple[int, ...]] = []
        self.calls: list[int] = []
        self.passes: list[int] = []
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()
        self.hold_at: int | None = None
        self.encode_fails: Callable[[Sequence[TokenIds]], bool] = lambda documents: False
        self.read_fails: Callable[[Sequence[ReadRequest]], bool] = lambda requests: False
        self.fail_once = False
        self.when_encoded: Callable[[], None] = lambda: None

    def hold(self) -> None:
        self.begun.clear()
        self.free.clear()

    def encode(
        self, prefix: Sequence[int], documents: Sequence[TokenIds], pool: Needs, *, layout: Layout
    ) -> Iterator[EncodedDocument]:
        self.calls.append(len(documents))
        if self.encode_fails(documents):
            raise RuntimeError("out of memory")
        for document, state in zip(documents, super().encode(prefix, documents, pool, layout=layout), strict=True):
            if len(self.encoded) == self.hold_at:
                self.hold_at = None
                self.hold()
            self.begun.set()
            assert self.free.wait(LONG)
            if self.fail_once:
                self.fail_once = False
                raise RuntimeError("out of memory")
            self.encoded.append(tuple(document.tolist()))
            self.when_encoded()
            yield state

    def read(self, prefix: Sequence[int], requests: Sequence[ReadRequest], *, layout: Layout) -> list[Observations]:
        self.begun.set()
        assert self.free.wait(LONG)
        self.passes.append(len(requests))
        if self.read_fails(requests):
            raise RuntimeError("out of memory")
        return super().read(prefix, requests, layout=layout)


def needs_of(layout: Layout, heads: Sequence[Head]) -> Needs:
    """All rows of these heads that the layout gives."""
    return Needs(tuple(heads), QUERY_GROUPS if layout == "solo" else ROW_GROUPS)


def open_watched(smollm2: Checkpoint, dtype: str = "float32") -> Watched:
    runtime = Watched.load(smollm2.path, device="cpu", dtype=dtype)
    assert isinstance(runtime, Watched)
    runtime.watch()
    return runtime


def open_reader(smollm2: Checkpoint, runtime: Watched, layout: Layout = "late", megabytes: int = 200) -> Reader:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    return Reader(runtime, tokenizer, template, layout, smollm2.digest(), DocumentCache(megabytes * 1_000_000))
