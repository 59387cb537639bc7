"""One LLM in memory, with a reranker in each layout over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.runtime import Runtime
from connector.backbone.similarity import Similarity
from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.pulling import find_local, obtain
from connector.checkpoints.shape import BackboneShape
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError
from connector.heads.head_sets import HeadSet
from connector.installation import this_installation
from connector.reranking.reranker import Reranker
from connector.routing.opening import open_reader
from connector.routing.selection import Routes
from connector.routing.shipped_files import shipped_heads, shipped_router
from connector.sections import Layout, Settings

__all__ = ["SharedBackbone", "stand_in_heads"]

_STAND_IN = 16


def stand_in_heads(shape: BackboneShape) -> HeadSet:
    """Heads for a model that nothing is shipped for: as many, and as deep, as those that were found for others.

    What they cost is what found ones would; what they say is worth nothing.
    """
    last = shape.layers * 2 // 3
    layers = sorted({place * last // (_STAND_IN - 1) for place in range(_STAND_IN)})
    return HeadSet(tuple((layer, layer % shape.heads) for layer in layers), 1.0)


@dataclass(frozen=True)
class SharedBackbone:
    """What all rerankers of one benchmark share, so that they have the same weights and threads.

    Attributes:
        settings: of the run.
        runtime: executes the LLM.
        tokenizer: of its checkpoint.
        template: the prompt.
        path: folder of the checkpoint.
        digest: of the checkpoint.
        embedder: the embedding model beside the LLM, where the settings name one.
    """

    settings: Settings
    runtime: Runtime
    tokenizer: Tokenizer
    template: PromptTemplate
    path: Path
    digest: str
    embedder: Embedder | None = None

    @classmethod
    def open(cls, settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> SharedBackbone:
        """Load the LLM that the settings name; documents are cached in memory only.

        Raises:
            SettingsError, BackboneError: see ``open_reader``.
        """
        cache = settings.cache.model_copy(update={"disk_mb": 0})
        backbone = settings.backbone.model_copy(update={"layout": "late"})
        settings = settings.model_copy(update={"cache": cache})
        reader = open_reader(settings.model_copy(update={"backbone": backbone}), progress)
        if backbone.model in CATALOGUE and find_local(backbone.model, cache=cache.path) is None:
            # The reader is open: ONNX graphs of the model are here.
            raise BackboneError(
                f"bench looks at the weights of {backbone.model} too, and only their ONNX graphs are here; "
                f"run: {this_installation().adding('bench')}; then: rh-connector model pull {backbone.model}"
            )
        checkpoint = obtain(backbone.model, cache=cache.path, offline=True)
        tokenizer = Tokenizer.from_folder(checkpoint.path)
        template = PromptTemplate.from_folder(checkpoint.path, tokenizer)
        digest = checkpoint.digest()
        return cls(settings, reader.runtime, tokenizer, template, checkpoint.path, digest, reader.embedder)

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cpu" if self.runtime.device == "cpu" else "cuda"

    def reranker(self, layout: Layout, memory: int = 0) -> Reranker:
        """A reranker with its own document cache.

        Args:
            layout: with the heads that the settings name if it is theirs, else those shipped for it, else
                ``stand_in_heads``; ``joint``: all heads, as ICR reads them.
            memory: most bytes of cached documents.

        Raises:
            BackboneError: what the settings name does not fit the model.
        """
        reader = self._reader(layout, memory)
        if layout == "joint":
            return Reranker(reader, HeadSet(reader.runtime.shape.all_heads(), 1.0), readout="icr")
        backbone = self.settings.backbone.model_copy(update={"layout": layout})
        router = self.settings.router
        if layout != self.settings.backbone.layout:
            router = router.model_copy(update={"bundle": None, "mode": "auto"})
        settings = self.settings.model_copy(update={"backbone": backbone, "router": router})
        if self.stands_in(layout):
            return Reranker(reader, stand_in_heads(reader.runtime.shape), fusion=settings.rerank.fusion)
        return Reranker(reader, Routes.from_settings(settings, reader), fusion=settings.rerank.fusion)

    def stands_in(self, layout: Layout) -> bool:
        """Whether the layout reads heads, and there are none but ``stand_in_heads``."""
        own = layout == self.settings.backbone.layout
        if layout != "late" or own and (self.settings.router.bundle or self._asks_for_heads):
            return False
        return shipped_heads(self.settings, layout) is None and shipped_router(self.settings, layout) is None

    @property
    def _asks_for_heads(self) -> bool:
        return self.settings.router.mode in ("routed", "static", "all")

    def _reader(self, layout: Layout, memory: int) -> Reader:
        backbone = self.settings.backbone
        return Reader(
            self.runtime,
            self.tokenizer,
            self.template,
            layout,
            self.digest,
            DocumentCache(memory),
            max_document_tokens=backbone.max_document_tokens,
            max_passages=backbone.max_passages,
            # Of each reranker its own, as documents are.
            similarity=None if self.embedder is None else Similarity(self.embedder),
        )
