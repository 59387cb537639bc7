"""What a decoder's config says about its layers, of the families whose graphs are written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from connector.checkpoints.shape import BackboneShape, decoder_config
from connector.checkpoints.weights import Array
from connector.errors import BackboneError

__all__ = ["WRITTEN", "Decoder", "UnwrittenError"]

WRITTEN = ("gemma2", "gemma3", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Families whose graphs are written without torch."""
_SLIDING, _FULL = "sliding_attention", "full_attention"
_GELU = "gelu_pytorch_tanh"
_ACTIVATIONS: dict[str, Literal["silu", "gelu"]] = {
    "silu": "silu",
    "swish": "silu",
    _GELU: "gelu",
    "gelu_new": "gelu",
}


class UnwrittenError(BackboneError):
    """This decoder's graphs cannot be written by hand; torch may trace them."""


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        shape: of the whole LLM.
        epsilon: of its norms.
        scaling: factor of the logits.
        windows: of each layer: sliding window in tokens, or None.
        softcap: of the logits, or None.
        frequencies: of each layer: float32 [d / 2], angle a position.
        activation: inside of the MLP.
        gemma: norms multiply by one and their weight, embeddings by the root of their length.
        widest: size of the vectors inside of the MLP.
        vocabulary: number of token ids.
    """

    shape: BackboneShape
    epsilon: float
    scaling: float
    windows: tuple[int | None, ...]
    softcap: float | None
    frequencies: tuple[Array, ...]
    activation: Literal["silu", "gelu"]
    gemma: bool
    widest: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> Decoder:
        """From a checkpoint's config.

        Args:
            config: its content.
            source: what errors name.

        Raises:
            UnwrittenError: the family is another, or has something that is not written.
            BackboneError: it is no decoder's.
        """
        whole_shape = BackboneShape.from_config(config, source)
        config = decoder_config(config)
        family = str(config.get("model_type", whole_shape.family))
        if family not in WRITTEN or whole_shape.family not in WRITTEN:
            raise UnwrittenError(f"{source}: the family {whole_shape.family} is none of {', '.join(WRITTEN)}")
        gemma = family.startswith("gemma")
        # Gemmas also hold a hidden_act, which nobody takes.
        named = str((config.get("hidden_activation") or _GELU) if gemma else config.get("hidden_act", "silu"))
        needed = ["rms_norm_eps", "intermediate_size", "vocab_size"]
        needed += ["head_dim", "query_pre_attn_scalar"] if gemma else []
        needed += ["head_dim"] if family == "qwen3" else []
        needed += ["attn_logit_softcapping"] if family == "gemma2" else []
        missing = [name for name in needed if name not in config]
        key = "hidden_activation" if gemma else "hidden_act"
        odd = f"{key} = {named}" if named not in _ACTIVATIONS else None
        odd = "attention in both directions" if config.get("use_bidirectional_attention") else odd
        if missing or odd:
            raise UnwrittenError(f"{source} " + (f"leaves out {missing[0]}" if missing else f"has {odd}"))
        types = _layer_types(config, family, whole_shape.layers, source)
        window = config.get("sliding_window")
        scalar = config["query_pre_attn_scalar"] if gemma else whole_shape.head_dim
        bases = {kind: _frequencies(config, family, kind, whole_shape.head_dim, source) for kind in set(types)}
        cap = config.get("attn_logit_softcapping") if gemma else None
        return cls(
            shape=whole_shape,
            epsilon=float(config["rms_norm_eps"]),
            scaling=float(scalar) ** -0.5,
            windows=tuple(int(window) if kind == _SLIDING and window is not None else None for kind in types),
            softcap=None if cap is None else float(cap),
            frequencies=tuple(bases[kind] for kind in types),
            activation=_ACTIVATIONS[named],
            gemma=gemma,
            widest=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
        )


def _layer_types(config: Mapping[str, Any], family: str, layers: int, source: str) -> Sequence[str]:
    """``sliding_attention`` or ``full_attention``, of each layer; older configs leave them out."""
    if family == "llama":
        return [_FULL] * layers
    if family == "mistral":
        return [_SLIDING if config.get("sliding_window") else _FULL] * layers
    if family.startswith("qwen") and not config.get("use_sliding_window"):
        return [_FULL] * layers
    if given := config.get("layer_types"):
        odd = set(given) - {_SLIDING, _FULL}
        if odd or len(given) < layers:
            raise UnwrittenError(f"{source}: its layer_types name {', '.join(sorted(odd)) or 'too few layers'}")
        return list(given)
    if family.startswith("qwen"):
        full = int(config.get("max_window_layers", 28))
        return [_FULL if layer < full else _SLIDING for layer in range(layers)]
    every = 2 if family == "gemma2" else int(config.get("sliding_window_pattern") or 6)
    return [_FULL if (layer + 1) % every == 0 else _SLIDING for layer in range(layers)]


def _frequencies(config: Mapping[str, Any], family: str, kind: str, dimension: int, source: str) -> Array:
    """Angle a position, of each pair of a head's dimensions, float32 [d / 2]."""
    given = config.get("rope_parameters")
    if given is not None and kind in given:
        given = given[kind]
    elif given is None and family.startswith("gemma3") and kind == _SLIDING:
        given = {"rope_theta": config.get("rope_local_base_freq", 10_000.0)}
    elif given is None:
        given = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    base = given.get("rope_theta") or config.get("rope_theta") or (1e6 if family.startswith("gemma3") else 10_000.0)
    if (given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1) != 1:
        raise UnwrittenError(f"{source} turns only a part of each head")
    kind_of_scale = given.get("rope_type") or given.get("type") or "default"
    found = float(base) ** (-np.arange(0, dimension, 2) / dimension)
    if kind_of_scale not in ("default", "linear", "llama3"):
        raise UnwrittenError(f"{source} scales its positions by {kind_of_scale}")
    try:
        if kind_of_scale == "linear":
            found = found / float(given["factor"])
        elif kind_of_scale == "llama3":
            found = _llama3(found, given, int(config["max_position_embeddings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnwrittenError(f"{source}: of its scaled positions ({kind_of_scale}): {error!r}") from None
    return found.astype(np.float32)


def _llama3(found: Any, given: Mapping[str, Any], positions: int) -> Any:
    """Llama 3.1's: slow turns are slowed down by a factor, fast ones stay, between them it is blended."""
    factor, low, high = (float(given[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(given.get("original_max_position_embeddings") or positions) * found / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - share) * found / factor + share * found
