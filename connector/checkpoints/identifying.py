"""Which model of the catalogue a name, a file or a folder is, in whatever format."""

from __future__ import annotations

import json
from pathlib import Path

from connector.checkpoints.catalogue import CATALOGUE, CatalogueEntry
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.manifest import Manifest
from connector.checkpoints.pulling import gguf_sha256
from connector.errors import BackboneError

__all__ = ["entry_of", "known_as"]


# What ONNX graphs were written of stands in this file of their folder.
_EXPORTED = "backbone.json"


def known_as(model: str, cache: Path) -> str:
    """The catalogue name of what ``backbone.model`` names; what is in no catalogue keeps its own.

    Args:
        model: catalogue name, hub id, GGUF file, or folder of a checkpoint or of ONNX graphs.
        cache: the cache folder, in which digests are remembered.
    """
    path = Path(model).expanduser()
    entry = CATALOGUE.get(model) or _by_hub(model)
    try:
        if entry is None and path.suffix.lower() == ".gguf":
            entry = _by_digest(gguf_sha256(path, cache))
        elif entry is None and (path / _EXPORTED).is_file():
            entry = _of_export(path / _EXPORTED)
        elif entry is None and path.is_dir():
            entry = entry_of(Checkpoint(path, path.resolve().name, cache))
    except BackboneError:
        # Whoever opens it tells what is wrong with it.
        return model
    return entry.name if entry else model


def entry_of(checkpoint: Checkpoint) -> CatalogueEntry | None:
    """The model that a checkpoint is a format of, by its name or digest.

    Raises:
        BackboneError: a file cannot be read.
    """
    found = CATALOGUE.get(checkpoint.name) or _by_hub(checkpoint.name)
    if found is None and (manifest := Manifest.read(checkpoint.path)) is not None:
        found = _by_digest(manifest.gguf_sha256)
    return found or _by_digest(checkpoint.digest())


def _of_export(record: Path) -> CatalogueEntry | None:
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        return CATALOGUE.get(told["name"]) or _by_hub(told["name"]) or _by_digest(told["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Whoever opens it tells what is wrong with it.
        return None


def _by_hub(model: str) -> CatalogueEntry | None:
    return next((entry for entry in CATALOGUE.values() if entry.hub.lower() == model.lower()), None)


def _by_digest(digest: str) -> CatalogueEntry | None:
    return next((entry for entry in CATALOGUE.values() if digest in entry.digests), None)
