"""``rh-connector cache sync``: the document cache on disk follows an index of a cluster."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from connector.cli.precompute import check_keeps, what_is_kept
from connector.documents import document_text, has_text
from connector.errors import BackboneError, SettingsError
from connector.sections import CLUSTER_KINDS, Settings

if TYPE_CHECKING:
    from connector.backbone.caching.followed_index import FollowedIndex
    from connector.engines.cluster.cluster_engine import ClusterEngine
    from connector.engines.cluster.versions import IndexVersions, VersionedDocument
    from connector.engines.engine import Engine
    from connector.reranking.reranker import Reranker

__all__ = ["Passing", "Synced", "check_sync", "sync"]

T = TypeVar("T")
Passing = Callable[[Sequence[str]], Iterable[str]]
"""Gives documents one by one, and may show how far it is."""
# Documents that are fetched together, and of these so many are recorded and encoded together.
_FETCHED, _BATCH = 64, 8
# Dates are given before documents can be found, and clocks differ.
_OVERLAP_MS = 10 * 60_000


@dataclass(frozen=True, slots=True)
class Synced:
    """What one sync did.

    Attributes:
        documents: documents that are known and in the cache now.
        added: of these, documents that were not known.
        changed: known documents whose text changed.
        deleted: known documents that were gone.
        encoded: what was made.
        dropped: what left the cache.
        counted: what these two count: passages, with vectors where the router weighs an embedding model.
        file_bytes: bytes that the cache takes on disk now, with all else that it holds.
        seconds: what it took, without loading the model.
    """

    documents: int
    added: int
    changed: int
    deleted: int
    encoded: int
    dropped: int
    counted: str
    file_bytes: int
    seconds: float


def check_sync(settings: Settings) -> None:
    """Refuse what cannot work before anything is done.

    Raises:
        SettingsError: there is no disk cache, the layout keeps no documents, or the engine is no cluster.
    """
    check_keeps(settings, "cache sync")
    if settings.engine.kind not in CLUSTER_KINDS:
        raise SettingsError(
            f"cache sync follows a cluster, and engine.kind = {settings.engine.kind}; set it to one of "
            f"{', '.join(CLUSTER_KINDS)}, or use: rh-connector index SOURCE --precompute"
        )


def sync(
    reranker: Reranker, settings: Settings, engine: Engine, field: str | None = None, passing: Passing = iter
) -> Synced:
    """Encode what is new or changed in an index into the cache on disk; what nobody finds any more leaves it.

    Whatever ends it, the next one goes on there. A document that changes meanwhile is the next one's.

    Args:
        reranker: its LLM encodes what its heads read.
        settings: of the cache and the fields.
        engine: the index, of a cluster.
        field: a field of dates: only documents are looked at that it shows as written since the last sync. Where the
            index then has more or fewer documents than are known, all are. None: always all.
        passing: is given the documents to encode.

    Raises:
        EngineError: there is no such index, or the cluster failed.
        SettingsError: the field holds no dates.
        BackboneError: the LLM failed, the disk takes no more, or the cache is too small for the index.
    """
    from connector.backbone.caching.followed_index import FollowedIndex
    from connector.backbone.caching.sqlite_store import store_path
    from connector.engines.cluster.cluster_engine import ClusterEngine
    from connector.engines.cluster.versions import IndexVersions

    assert isinstance(engine, ClusterEngine)
    started = time.perf_counter()
    versions = IndexVersions(engine)
    place = f"{engine.connection.url} {settings.engine.index}"
    limit = settings.cache.disk_mb * 1_000_000
    with closing(
        FollowedIndex(store_path(settings.cache.path), limit, place, _encoding(reranker, settings))
    ) as known:
        following = _Following(reranker, settings, versions, known, passing)
        if field is None:
            following.follow_all()
        else:
            following.follow_dates(engine, field)
        documents = known.documents()
    statistics = reranker.reader.statistics()
    done = following.done
    return Synced(
        documents,
        done.added,
        done.changed,
        following.deleted,
        following.encoded,
        following.dropped,
        what_is_kept(reranker.routes.pool().similarity),
        statistics.disk_bytes,
        time.perf_counter() - started,
    )


def _encoding(reranker: Reranker, settings: Settings) -> str:
    """What the passages of a document depend on besides the document."""
    reader = reranker.reader
    # The keys of any text tell model, layout and pool, and an embedding model where one counts.
    (keys,) = reader.keys(["document"], reranker.routes.pool())
    told = [*(key.hex() for key in keys), reader.budget, list(settings.engine.field_weights())]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


class _Following:
    """One sync under way, and its counts."""

    def __init__(
        self,
        reranker: Reranker,
        settings: Settings,
        versions: IndexVersions,
        known: FollowedIndex,
        passing: Passing,
    ) -> None:
        from connector.backbone.caching.followed_index import Recorded

        self._reader, self._pool = reranker.reader, reranker.routes.pool()
        self._fields = tuple(settings.engine.field_weights())
        self._disk_mb = settings.cache.disk_mb
        self._versions, self._known, self._passing = versions, known, passing
        self.done = Recorded()
        self.deleted = self.dropped = self.encoded = 0

    def follow_all(self) -> None:
        self._see(self._versions.walk())
        try:
            self._encode_pending()
        except BackboneError:
            # A cache that is too small still lets go of what is deleted.
            self._forget_unseen()
            raise
        # Last: in an index that an alias has moved to, the same texts have other names.
        self._forget_unseen()

    def follow_dates(self, engine: ClusterEngine, field: str) -> None:
        followed = f"{field} {self._versions.identity}"
        newest, mark = self._versions.newest(field), self._known.mark(followed)
        now = int(time.time() * 1000)
        if mark is not None and mark > now:
            # The clock was ahead when it was set: what is written meanwhile lies before it.
            mark = None
        if mark is not None:
            self._see(self._versions.walk(field, mark - _OVERLAP_MS))
            self._encode_pending()
        if mark is None or engine.count() != self._known.documents():
            self.follow_all()
        if newest is not None:
            # A date in the future must not hide those that come before it.
            self._known.set_mark(followed, min(newest, now))

    def _see(self, pages: Iterable[list[tuple[str, str]]]) -> None:
        self._known.look_again()
        for page in pages:
            self._known.see(page)

    def _forget_unseen(self) -> None:
        deleted, dropped = self._known.forget_unseen()
        self.deleted += deleted
        self.dropped += dropped

    def _encode_pending(self) -> None:
        pending = self._known.pending()
        if not pending:
            return
        before = self._reader.statistics()
        # What others left there may go; what this index has there may not.
        others = max(0, before.disk_entries - self._known.passages())
        at = 0
        for part in _parts(self._passing(pending), _FETCHED):
            documents = self._versions.fetch(part)
            for batch in _parts(documents, _BATCH):
                self._keep(batch)
                at += len(batch)
                now = self._reader.statistics()
                if now.disk_unwritten > before.disk_unwritten:
                    raise BackboneError(
                        f"the document cache took {at:,} documents, then its disk failed (see above); mend that, the "
                        "same command continues"
                    )
                if now.disk_evictions - before.disk_evictions > others:
                    raise BackboneError(
                        f"the document cache is full after {at:,} of {len(pending):,} documents that are new or "
                        f"changed; raise cache.disk_mb = {self._disk_mb} (rh-connector cache status: what a million "
                        "need), the same command continues"
                    )

    def _keep(self, batch: Sequence[VersionedDocument]) -> None:
        from connector.backbone.caching.followed_index import KnownDocument

        found = [document_text(document.fields, self._fields) for document in batch]
        texts = [text if has_text(text) else "" for text in found]
        keys = self._reader.keys(texts, self._pool)
        # Recorded first: what is recorded and not encoded is pending, what is encoded and not recorded is nobody's.
        done = self._known.record(
            KnownDocument(document.name, document.version, own) for document, own in zip(batch, keys, strict=True)
        )
        self.done += done
        self.dropped += done.dropped
        self.encoded += self._reader.precompute(texts, self._pool)[1]


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part
