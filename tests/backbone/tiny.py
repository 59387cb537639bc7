"""Tiny random decoders of every family that is said to work, saved as checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 120
WINDOW = 7

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED = ["sliding_attention", "full_attention"] * 2

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _MIXED},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _MIXED,
        "attn_logit_softcapping": 0.5,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _MIXED,
        "query_pre_attn_scalar": 16,
    },
    "phi3": {"sliding_window": WINDOW},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "granite": {"attention_multiplier": 0.2, "residual_multiplier": 0.5},
}


def config_of(family: str, layers: int = 4) -> Any:
    """A fresh config object: models made from one object would share its attention setting.

    Fewer layers are the first of the four.
    """
    own = {name: value[:layers] if isinstance(value, list) else value for name, value in FAMILIES[family].items()}
    return AutoConfig.for_model(family, **{**_COMMON, **own, "num_hidden_layers": layers})


def save_tiny(family: str, folder: Path, layers: int = 4) -> None:
    """Write a random model with weights large enough for attention to be far from uniform."""
    torch.manual_seed(11)
    config = config_of(family, layers)
    config.initializer_range = 0.25
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
