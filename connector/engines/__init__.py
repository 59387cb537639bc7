"""Search engines behind one protocol: embedded (tantivy); clusters come with their own modules."""

from __future__ import annotations

from pathlib import Path

from connector.engines.engine import Engine
from connector.errors import EngineError, SettingsError
from connector.settings import Settings

__all__ = ["index_folder", "open_engine"]


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name.

    Raises:
        EngineError: an engine that this version does not have, a damaged index or one of another version.
        SettingsError: ``engine.url`` or ``engine.index`` names no folder.
    """
    engine = settings.engine
    if engine.kind != "embedded":
        raise EngineError(
            f"engine.kind = {engine.kind}: this version searches the embedded index only; set it to embedded"
        )
    from connector.engines.embedded import EmbeddedEngine

    return EmbeddedEngine(index_folder(settings), engine.field_weights())


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
