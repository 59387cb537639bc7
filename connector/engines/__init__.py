"""Search engines behind one protocol: embedded (tantivy); clusters come with their own modules."""

from __future__ import annotations

from pathlib import Path

from connector.engines.engine import Engine
from connector.errors import SettingsError
from connector.settings import Settings

__all__ = ["open_engine"]


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name.

    Raises:
        SettingsError: an engine that this version does not have.
        EngineError: the index is damaged or of another version.
    """
    engine = settings.engine
    if engine.kind != "embedded":
        raise SettingsError(
            f"engine.kind = {engine.kind}: this version searches the embedded index; set it to embedded"
        )
    from connector.engines.embedded import EmbeddedEngine

    root = settings.cache.path / "indexes" if engine.url is None else _folder(engine.url)
    return EmbeddedEngine(root / engine.index, engine.field_weights())


def _folder(url: str) -> Path:
    if "://" in url and not url.startswith("file://"):
        raise SettingsError(
            f"engine.url = {url}: the embedded engine takes a folder; or set engine.kind to a cluster"
        )
    return Path(url.removeprefix("file://")).expanduser()
