"""A GGUF file becomes a checkpoint folder, once, in the form in which torch loads it fastest."""

from __future__ import annotations

import json
from pathlib import Path

from connector.checkpoints.gguf_tokenizer import write_tokenizer
from connector.checkpoints.gguf_weights import GgufWeights
from connector.errors import BackboneError, MissingExtraError

__all__ = ["convert_gguf"]


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
    tensors = {name: weights.tensor(name) for name in sorted(weights.names)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _needed(weights: GgufWeights) -> set[str]:
    """What every layer has, by what the first one has."""
    first = "model.layers.0."
    of_layer = {name.removeprefix(first) for name in weights.names if name.startswith(first)}
    layers = range(int(weights.config["num_hidden_layers"]))
    return {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{part}" for layer in layers for part in of_layer
    }
