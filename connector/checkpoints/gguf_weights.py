"""A GGUF file's config and weights under transformers' names; tensors are dequantized when they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from connector.checkpoints.weights import Array
from connector.errors import BackboneError, MissingExtraError

__all__ = ["ARCHITECTURES", "GgufWeights"]

# Dimension of a head in the Gemmas whose attention is scaled by it.
_GEMMA_HEAD = 256
# Of Gemma 3's layers with a window, whose base of positions the file does not hold.
_GEMMA3_LOCAL_BASE = 10_000.0
# llama.cpp's defaults, of files that leave them out.
_BASE, _LOGIT_CAP = 10_000.0, 50.0
_WINDOW_EVERY = {"gemma2": 2, "gemma3": 6}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
ARCHITECTURES = frozenset(_CLASSES)
"""``general.architecture`` of the GGUF files that come out right; others must come as safetensors."""
_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_GEMMA_PARTS = {
    **_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class GgufWeights:
    """One GGUF file.

    Args:
        source: the file.

    Attributes:
        source: the file.
        facts: name -> field, as the file holds them.

    Raises:
        BackboneError: it is damaged, or of a kind that would lose something on the way.
        MissingExtraError: gguf is not installed.
    """

    def __init__(self, source: Path) -> None:
        try:
            import gguf
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "gguf", "cpu") from None
        self.source = source
        try:
            with source.open("rb") as file:
                if file.read(4) != b"GGUF":
                    raise BackboneError(f"{source} is not a GGUF file")
            reader = gguf.GGUFReader(source)
            self.facts: Mapping[str, Any] = dict(reader.fields)
            self._architecture = _architecture(source, self.facts)
            self._tensors = {self._named(tensor.name): tensor for tensor in reader.tensors}
            self._config = self._read_config()
        except BackboneError:
            raise
        except OSError as error:
            raise BackboneError(f"cannot read {source}: {error.strerror or error}") from None
        except Exception as error:
            # The reader raises whatever comes up in a damaged file: IndexError, ValueError, struct.error, ...
            raise BackboneError(f"cannot read {source}: {' '.join(str(error).split())}") from error

    @property
    def config(self) -> Mapping[str, Any]:
        """What transformers needs to know, in its words."""
        return self._config

    @property
    def names(self) -> Collection[str]:
        """See ``Weights``."""
        return self._tensors.keys()

    def tensor(self, name: str) -> Array:
        """See ``Weights``; exactly as dequantized."""
        from gguf.quants import dequantize

        if name not in self._tensors:
            raise BackboneError(
                f"{self.source} does not map onto the model one to one (it holds no {name}): "
                "take the model as safetensors"
            )
        stored = self._tensors[name]
        try:
            found: Array = dequantize(stored.data, stored.tensor_type).astype(np.float32, copy=False)
        except (ValueError, RuntimeError, IndexError) as error:
            # A RuntimeError: the library does not know how these numbers are packed.
            raise BackboneError(f"cannot read {name} from {self.source}: {error}") from error
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            # llama.cpp stores what Gemma multiplies by, transformers what it adds to one.
            return found - np.float32(1)
        if self._architecture == "llama" and ".q_proj." in name:
            return _unpaired(found, self._config["num_attention_heads"])
        if self._architecture == "llama" and ".k_proj." in name:
            return _unpaired(found, self._config["num_key_value_heads"])
        return found

    def parameters(self, name: str) -> int:
        """Numbers in one of the tensors; nothing is read for it."""
        return int(self._tensors[name].n_elements)

    def fact(self, name: str, default: Any = None) -> Any:
        """A field's content; ``default`` where the file lacks it."""
        field = self.facts.get(name)
        return default if field is None else field.contents()

    def _own(self, name: str, default: Any = None) -> Any:
        return self.fact(f"{self._architecture}.{name}", default)

    def _named(self, stored: str) -> str:
        """transformers' name of a tensor."""
        parts = _GEMMA_PARTS if self._architecture.startswith("gemma") else _PARTS
        name, _, kind = stored.rpartition(".")
        if name in _WHOLE:
            return f"{_WHOLE[name]}.{kind}"
        block, _, rest = name.removeprefix("blk.").partition(".")
        if not name.startswith("blk.") or not block.isdigit() or rest not in parts:
            raise BackboneError(
                f"{self.source} does not map onto the model one to one ({stored}): take the model as safetensors"
            )
        return f"model.layers.{block}.{parts[rest]}.{kind}"

    def _read_config(self) -> dict[str, Any]:
        family, own = self._architecture, self._own
        layers, heads = int(own("block_count")), int(own("attention.head_count"))
        hidden = int(own("embedding_length"))
        dimension = own("attention.key_length") or (own("rope.dimension_count") if family == "llama" else None)
        base = float(own("rope.freq_base", _BASE))
        full = {"rope_type": "default", "rope_theta": base}
        config = {
            "architectures": [_CLASSES[family]],
            "model_type": "gemma3_text" if family == "gemma3" else family,
            "dtype": "float32",
            "vocab_size": int(self._tensors["model.embed_tokens.weight"].shape[1]),
            "hidden_size": hidden,
            "intermediate_size": int(own("feed_forward_length")),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": int(own("attention.head_count_kv", heads)),
            "head_dim": int(dimension or hidden // heads),
            "max_position_embeddings": int(own("context_length")),
            "rms_norm_eps": float(own("attention.layer_norm_rms_epsilon")),
            "hidden_act": "silu",
            "rope_parameters": full,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self._tensors,
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
        }
        for name, stored in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            config[f"{name}_token_id"] = self.fact(f"tokenizer.ggml.{stored}_token_id")
        if family.startswith("gemma"):
            del config["hidden_act"]
            every = _WINDOW_EVERY[family]
            config |= {
                "hidden_activation": "gelu_pytorch_tanh",
                "query_pre_attn_scalar": _GEMMA_HEAD,
                "sliding_window": int(own("attention.sliding_window")),
                "layer_types": [
                    "full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)
                ],
            }
        if family == "gemma2":
            config["attn_logit_softcapping"] = float(own("attn_logit_softcapping", _LOGIT_CAP))
        if family == "gemma3":
            local = {"rope_type": "default", "rope_theta": _GEMMA3_LOCAL_BASE}
            config["rope_parameters"] = {"full_attention": full, "sliding_attention": local}
        return config


def _architecture(source: Path, facts: Mapping[str, Any]) -> str:
    """The file's kind of model, where nothing that changes the numbers would be lost."""
    field = facts.get("general.architecture")
    architecture = field.contents() if field is not None else None
    if architecture not in ARCHITECTURES:
        raise BackboneError(
            f"{source} is a GGUF file of architecture {architecture}; of GGUF files only "
            f"{', '.join(sorted(ARCHITECTURES))} are read: take the model as safetensors"
        )
    width = facts.get(f"{architecture}.attention.key_length")
    if architecture.startswith("gemma") and (width is None or width.contents() != _GEMMA_HEAD):
        # Gemma 27B scales its attention by a number that the file does not hold.
        raise BackboneError(
            f"{source} is a Gemma whose scale of attention GGUF does not hold: take it as safetensors"
        )
    scaling = facts.get(f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling.contents() != "none":
        raise BackboneError(
            f"{source} scales its positions ({scaling.contents()}), which is not read from GGUF: "
            "take the model as safetensors"
        )
    return str(architecture)


def _unpaired(stored: Array, heads: int) -> Array:
    """llama.cpp lays the rotary dimensions i and i + d/2 side by side; this puts them back."""
    pairs = stored.reshape(heads, stored.shape[0] // heads // 2, 2, *stored.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(stored.shape)
