"""``rh-connector index --precompute``: the documents of a source into the document cache on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from connector.errors import BackboneError, SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.engines.sources import Source
    from connector.offline.workers import Workers
    from connector.reranking.reranker import Reranker

__all__ = ["Precomputed", "check_keeps", "check_precompute", "precompute", "what_is_kept"]

# Documents that become durable together: what an interruption costs at most.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Precomputed:
    """What is in the cache of a source.

    Attributes:
        documents: documents that were looked at.
        present: what was there before.
        encoded: what was made now.
        counted: what these two count: passages, with vectors where the router weighs an embedding model.
        file_bytes: bytes that the cache takes on disk now, with all else that it holds.
        seconds: what it took, without loading the model.
    """

    documents: int
    present: int
    encoded: int
    counted: str
    file_bytes: int
    seconds: float


def check_precompute(settings: Settings, source: str) -> None:
    """Refuse what cannot work before anything is done.

    Raises:
        SettingsError: there is no disk cache, the source cannot be read twice, or the layout keeps no documents.
    """
    check_keeps(settings, "--precompute")
    if source == "-":
        raise SettingsError("--precompute reads the documents a second time; give a file instead of -")


def check_keeps(settings: Settings, command: str) -> None:
    """Refuse settings that keep no documents on disk.

    Args:
        settings: see ``load_settings``.
        command: what the user called, for the message.

    Raises:
        SettingsError: there is no disk cache, or the layout keeps no documents.
    """
    if not settings.cache.disk_mb:
        raise SettingsError(f"{command} keeps documents on disk; set cache.disk_mb, as in --set cache.disk_mb=20000")
    if settings.backbone.layout == "joint":
        raise SettingsError(f"{command}: backbone.layout = joint keeps no documents; set it to solo or late")


def what_is_kept(with_vectors: bool) -> str:
    """What of documents goes into the cache, or lies there, in words."""
    return "passages and vectors" if with_vectors else "passages"


def precompute(
    reranker: Reranker,
    settings: Settings,
    source: Source,
    report: Callable[[Precomputed], None],
    workers: Workers | None = None,
) -> Precomputed:
    """Encode a source's documents into the cache on disk; those that are there are passed over.

    Args:
        reranker: its LLM encodes what its heads read; the cache lets go of its disk at the end.
        settings: of the cache and the fields.
        source: the documents; lines that hold none are left out.
        report: called after each batch.
        workers: encode, with the same bytes, and this process writes them; None: the LLM here does.

    Raises:
        BackboneError: the LLM failed, the disk takes no more, or the cache is too small for the source.
        DataError: the source cannot be read.
    """
    from connector.documents import document_text
    from connector.offline.encoding import keeping

    reader, pool = reranker.reader, reranker.routes.pool()
    fields = tuple(settings.engine.field_weights())
    documents = source.documents(lambda line: None)

    def batches() -> Iterator[list[str]]:
        while batch := [document_text(document.fields, fields) for _, document in islice(documents, _BATCH)]:
            yield batch

    before = reader.statistics()
    evicted = 0
    started = time.perf_counter()
    counted = what_is_kept(pool.similarity)
    done = Precomputed(0, 0, 0, counted, before.disk_bytes, 0.0)
    try:
        for kept in keeping(workers, reader, settings.cache, pool, batches()):
            now = reader.statistics()
            done = Precomputed(
                done.documents + kept.texts,
                done.present + kept.present,
                done.encoded + kept.encoded,
                counted,
                now.disk_bytes,
                time.perf_counter() - started,
            )
            evicted += kept.evicted
            report(done)
            if now.disk_unwritten:
                raise BackboneError(
                    f"the document cache took {done.documents:,} documents, then its disk failed (see above); "
                    "mend that, the same command continues"
                )
            # What others left there may go; what this source has there may not.
            if evicted > max(0, before.disk_entries - done.present):
                raise BackboneError(
                    f"the document cache is full after {done.documents:,} documents; raise cache.disk_mb = "
                    f"{settings.cache.disk_mb} (rh-connector cache status: what a million need), the same command "
                    "continues"
                )
    finally:
        reader.close()
    return done
