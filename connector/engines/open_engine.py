"""From settings to an engine, and where an embedded index and the progress of indexing lie."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from connector.engines.engine import Engine
from connector.errors import MissingExtraError, SettingsError
from connector.sections import CLUSTER_KINDS, Settings

__all__ = ["index_folder", "open_engine", "progress_folder"]


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name.

    Nothing is sent to a cluster yet.

    Raises:
        EngineError: a damaged index or one of another version; credentials or certificates of no use.
        MissingExtraError: the cluster's client, or what an index with vectors needs, is not installed.
        DataError: the embedding model cannot be used.
        SettingsError: ``engine.url``, ``engine.index``, ``engine.query_json`` or ``engine.embedder`` cannot be used.
    """
    engine = settings.engine
    if engine.kind in CLUSTER_KINDS:
        from connector.engines.cluster.connect import connect
        from connector.engines.cluster.query import own_query

        if engine.query_json is not None:
            # Told now, not at the first search.
            own_query(engine.query_json, "")
        connection = connect(engine)
        # It needs what only an extra brings: connect has told what of it is missing.
        from connector.engines.cluster.cluster_engine import ClusterEngine

        return ClusterEngine(
            connection,
            engine.index,
            engine.field_weights(),
            query_json=engine.query_json,
            reranking_pipeline=settings.writeback.name if engine.kind == "opensearch" else None,
            retry_ms=engine.retry_ms,
        )
    if engine.query_json is not None:
        raise SettingsError("engine.query_json is for clusters; leave it out, or set engine.kind")
    from connector.engines.embedded import EmbeddedEngine

    folder, weights = index_folder(settings), engine.field_weights()
    if engine.embedder is None:
        return EmbeddedEngine(folder, weights, language=engine.language)
    # Before a model is fetched for it.
    if importlib.util.find_spec("faiss") is None:
        raise MissingExtraError("faiss", "vectors")
    from connector.embedding.embedder import Embedder
    from connector.engines.vectors import Vectors

    embedder = Embedder.load(engine.embedder, offline=settings.backbone.offline, device=settings.backbone.device)
    return EmbeddedEngine(folder, weights, Vectors(folder, embedder, tuple(weights)), engine.language)


def progress_folder(settings: Settings) -> Path:
    """Where it is kept how far indexing came: beside the embedded index, or one folder for each cluster's index."""
    engine = settings.engine
    if engine.kind == "embedded":
        return index_folder(settings)
    target = f"{engine.url}\n{engine.index}"
    return settings.cache.path / "clusters" / hashlib.sha256(target.encode()).hexdigest()[:16]


def index_folder(settings: Settings) -> Path:
    """The folder of the embedded index that the settings name; it need not exist.

    Raises:
        SettingsError: ``engine.url`` or ``engine.index`` names no folder.
    """
    url, name = settings.engine.url, settings.engine.index
    if name in (".", "..") or any(char in "/\\" or ord(char) < 32 for char in name):
        raise SettingsError(f"engine.index = {name!r}: give a plain name without slashes")
    if url is None:
        return settings.cache.path / "indexes" / name
    if "://" in url and not url.startswith("file://"):
        raise SettingsError(
            f"engine.url = {url}: the embedded engine takes a folder; or set engine.kind to a cluster"
        )
    return Path(url.removeprefix("file://")).expanduser() / name
