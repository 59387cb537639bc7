"""Workers somewhere else: each holds the LLM once, and gives one result for each item of work, in order.

An item is the smallest shard there is: of N items, the I-th is what ``--shard I/N`` would take. Results are those of
one machine: the caller writes them, in the order of the items, and asks again only for what it does not have yet.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from connector.sections import EngineSettings, Settings

if TYPE_CHECKING:
    from connector.backbone.reader import Reader
    from connector.reranking.reranker import Reranker

__all__ = ["LoadedLlm", "Work", "Workers", "told_of", "worker_settings"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Work: TypeAlias = "Callable[[LoadedLlm, Item], Result]"
"""What is done with an item. It travels to the workers, so it is small and can be pickled."""


class Workers(Protocol):
    """Does work elsewhere."""

    def map(self, work: Work[Item, Result], items: Iterable[Item], reader: Reader | None = None) -> Iterator[Result]:
        """One result for each item, in their order. Items are taken as workers have room for them.

        Args:
            work: what is done.
            items: for each of them.
            reader: the LLM here, which theirs must equal; None: theirs must equal each other.

        Raises:
            RhConnectorError: what the work raised there.
            BackboneError: no worker can be had, an item ended several of them, or their LLM is another one.
        """
        ...


def worker_settings(settings: Settings) -> tuple[Settings, Mapping[Path, bytes]]:
    """What a worker needs of the settings, and the routers' files. Keys and passwords stay here."""
    own = Settings(
        backbone=settings.backbone,
        cache=settings.cache,
        router=settings.router,
        rerank=settings.rerank,
        cascade=settings.cascade,
        engine=EngineSettings(fields=settings.engine.fields),
    )
    named = (settings.router.bundle, settings.cascade.bundle)
    return own, {bundle: bundle.read_bytes() for bundle in named if bundle is not None and bundle.is_file()}


def told_of(reader: Reader) -> str:
    """What two LLMs have in common that give the same numbers, with the embedding models beside them."""
    runtime, embedder = reader.runtime, reader.embedder
    beside = "" if embedder is None else f" {embedder.fingerprint[:16]}"
    return f"{reader.fingerprint[:16]} {type(runtime).__name__} {runtime.precision}{beside}"


class LoadedLlm:
    """What a worker holds.

    Args:
        settings, files: see ``worker_settings``.
    """

    def __init__(self, settings: Settings, files: Mapping[Path, bytes] | None = None) -> None:
        here: dict[Path, Path] = {}
        for named, data in (files or {}).items():
            # A folder for each: two of them may have the same name.
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            here[named] = Path(folder) / named.name
            here[named].write_bytes(data)
        for name in ("router", "cascade"):
            section = getattr(settings, name)
            if section.bundle in here:
                moved = section.model_copy(update={"bundle": here[section.bundle]})
                settings = settings.model_copy(update={name: moved})
        self._settings = settings

    @cached_property
    def reader(self) -> Reader:
        """The LLM."""
        from connector.routing.opening import open_reader

        return open_reader(self._settings)

    @cached_property
    def reranker(self) -> Reranker:
        """The reranker on it."""
        from connector.reranking.reranker import Reranker

        return Reranker.from_settings(self._settings, reader=self.reader)
