"""The session's LLM, for commands that are called in this process."""

from __future__ import annotations

from collections.abc import Callable

from connector.backbone.reader import Reader
from connector.cli.models import Models
from connector.reranking.reranker import Reranker
from connector.sections import Settings

__all__ = ["LoadedModels"]


class LoadedModels(Models):
    """Hands out one reranker for all settings, and its LLM for its own layout; another layout is loaded once.

    Attributes:
        asked: settings of every reranker that was asked for, in order.
    """

    def __init__(self, reranker: Reranker) -> None:
        super().__init__()
        self._reranker = reranker
        self.asked: list[Settings] = []

    def reader(self, settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> Reader:
        own = self._reranker.reader
        backbone = settings.backbone
        wanted = (backbone.layout, (backbone.max_document_tokens, backbone.max_passages))
        return own if (own.layout, own.budget) == wanted else super().reader(settings, progress)

    def reranker(self, settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> Reranker:
        self.asked.append(settings)
        return self._reranker
