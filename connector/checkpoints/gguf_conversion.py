"""A GGUF file becomes a checkpoint folder, once, in the form in which torch loads it fastest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from connector.checkpoints.checkpoint import INDEX
from connector.checkpoints.gguf_tokenizer import write_tokenizer
from connector.checkpoints.gguf_weights import GgufWeights
from connector.checkpoints.weights import Array
from connector.errors import BackboneError, MissingExtraError

__all__ = ["convert_gguf"]

_FILE_BYTES = 3_000_000_000
_METADATA = {"format": "pt"}


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 weights, exactly as dequantized, into an empty folder.

    The caller makes it atomic: it gives a temporary folder and renames it.

    Raises:
        BackboneError: the file is damaged, or of a kind that would lose something on the way.
        MissingExtraError: gguf or safetensors is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "safetensors", "cpu") from None
    weights = GgufWeights(source)
    lost = sorted(_needed(weights) - set(weights.names))
    if lost:
        # torch would fill them with random numbers: a model that runs and is wrong.
        raise BackboneError(
            f"{source} does not map onto the model one to one (it holds no {lost[0]}): take the model as safetensors"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(weights, folder)
    (folder / "config.json").write_text(json.dumps(weights.config, indent=1) + "\n", encoding="utf-8")
    groups = _groups(weights)
    if len(groups) == 1:
        save_file(_read(weights, groups[0]), folder / "model.safetensors", metadata=_METADATA)
        return
    files = {f"model-{number:05}-of-{len(groups):05}.safetensors": names for number, names in enumerate(groups, 1)}
    for file, names in files.items():
        save_file(_read(weights, names), folder / file, metadata=_METADATA)
    weight_map = {name: file for file, names in files.items() for name in names}
    total = sum((folder / file).stat().st_size for file in files)
    record = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _read(weights: GgufWeights, names: Sequence[str]) -> dict[str, Array]:
    return {name: weights.tensor(name) for name in names}


def _groups(weights: GgufWeights) -> list[list[str]]:
    """Tensors of one file: no more than these are in memory at once, however large the model is."""
    groups: list[list[str]] = [[]]
    room = _FILE_BYTES
    for name in sorted(weights.names):
        size = weights.parameters(name) * np.dtype(np.float32).itemsize
        if groups[-1] and size > room:
            groups.append([])
            room = _FILE_BYTES
        groups[-1].append(name)
        room -= size
    return groups


def _needed(weights: GgufWeights) -> set[str]:
    """What every layer has, by what the first one has."""
    first = "model.layers.0."
    of_layer = {name.removeprefix(first) for name in weights.names if name.startswith(first)}
    layers = range(int(weights.config["num_hidden_layers"]))
    return {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{part}" for layer in layers for part in of_layer
    }
