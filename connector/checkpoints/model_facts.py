"""What is to be said about a checkpoint: origin, identity, shape."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from connector.checkpoints.catalogue import CatalogueEntry
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.hub import is_hub_id
from connector.checkpoints.identifying import entry_of
from connector.checkpoints.manifest import Manifest
from connector.checkpoints.shape import BackboneShape

__all__ = ["describe", "of_entry", "of_shape"]


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts about a checkpoint, ready for JSON. Every file of a converted one is checked.

    Raises:
        BackboneError: a file is not what was converted, or config.json lacks the shape of a decoder.
    """
    verified = checkpoint.verify()
    manifest = Manifest.read(checkpoint.path)
    config = checkpoint.config()
    shape = BackboneShape.from_config(config, str(checkpoint.path / "config.json"))
    weights = checkpoint.weight_files()
    entry = entry_of(checkpoint)
    from_hub = is_hub_id(checkpoint.name) or entry is not None and entry.name == checkpoint.name
    return {
        "name": checkpoint.name,
        "path": str(checkpoint.path),
        "source": manifest.source if manifest else "hub" if from_hub else "folder",
        **of_entry(entry),
        "licence": (manifest.licence if manifest else None) or (entry.licence if entry else None),
        "gguf_sha256": manifest.gguf_sha256 if manifest else None,
        "digest": checkpoint.digest(),
        "verified": verified,
        "family": config.get("model_type"),
        **of_shape(shape),
        "template": checkpoint.template(),
        "parameters": sum(_parameters(file) for file in weights),
        "bytes": sum(file.stat().st_size for file in checkpoint.path.iterdir() if file.is_file()),
    }


def of_entry(entry: CatalogueEntry | None) -> dict[str, Any]:
    """What the catalogue says of a model, ready for JSON; None: it is in none."""
    return {
        "format_of": entry.name if entry else None,
        "hub": entry.hub if entry else None,
        "licence": entry.licence if entry else None,
        "languages": entry.languages if entry else None,
        "measured": asdict(entry.measured) if entry else None,
    }


def of_shape(shape: BackboneShape) -> dict[str, int]:
    """The sizes that are told of an LLM."""
    return {
        "layers": shape.layers,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden": shape.hidden,
        "max_positions": shape.max_positions,
    }


def _parameters(file: Path) -> int:
    # The header of a safetensors file: its length in 8 bytes, then JSON with the shape of each tensor.
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
