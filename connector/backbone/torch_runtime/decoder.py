"""The frozen decoder of a checkpoint folder, as torch modules whose attention is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from connector.backbone.torch_runtime.attention import ATTENTION
from connector.backbone.torch_runtime.likelihood import Likelihood
from connector.errors import BackboneError

__all__ = ["Decoder", "load_decoder"]

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class Decoder(NamedTuple):
    """A frozen decoder and its LM head.

    Attributes:
        layers: the transformers model without its LM head.
        likelihood: what the head is for.
    """

    layers: Any
    likelihood: Likelihood


def load_decoder(path: Path, device: str, dtype: torch.dtype) -> Decoder:
    """The frozen decoder of a checkpoint folder.

    Args:
        path: the folder.
        device: for ``torch.Tensor.to``.
        dtype: of the weights.

    Raises:
        BackboneError: it cannot be loaded, or has layers whose attention is not captured.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        # A config object of our own: models made from one config share its attention setting.
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        _refuse_unknown_layers(config)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BackboneError(f"cannot load the backbone in {path}: {' '.join(str(error).split())}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    whole: Any = model
    whole = whole.to(device).eval().requires_grad_(False)
    return Decoder(whole.get_decoder(), Likelihood.of_model(whole))


def _refuse_unknown_layers(config: Any) -> None:
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise BackboneError(
            f"{config.model_type} has layers of kind {', '.join(sorted(unknown))}, whose attention is not captured; "
            "choose a decoder with full or sliding-window attention"
        )
