"""A GGUF file becomes a checkpoint folder, once: reading GGUF takes half a minute, safetensors a second."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connector.checkpoints.gguf_tokenizer import mend_tokenizer
from connector.errors import BackboneError, MissingExtraError

__all__ = ["ARCHITECTURES", "convert_gguf"]

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "gemma2", "gemma3"})
"""``general.architecture`` of the GGUF files that come out right; others must come as safetensors."""

# Dimension of a head in the Gemmas whose attention is scaled by it.
_GEMMA_HEAD = 256

# Facts about how the file was made, which say nothing about the model.
_VOLATILE = {"_name_or_path", "_model_name_or_path", "quantization_config", "gguf_file"}


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 weights, exactly as dequantized, into an empty folder.

    The caller makes it atomic: it gives a temporary folder and renames it.

    Raises:
        BackboneError: the file is damaged, or of a kind that would lose something on the way.
        MissingExtraError: torch, transformers or gguf is not installed.
    """
    try:
        import gguf
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "gguf", "torch") from None

    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BackboneError(f"{source} is not a GGUF file")
    options: dict[str, Any] = {
        "gguf_file": source.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with _quietly():
            reader = gguf.GGUFReader(source)
            facts = {name: reader.fields[name] for name in reader.fields}
            _refuse_lossy(source, facts)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
            mend_tokenizer(tokenizer.backend_tokenizer, facts, source)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.parent, dtype=torch.float32, output_loading_info=True, **options
            )
    except BackboneError:
        raise
    except Exception as error:
        # The readers raise whatever comes up in a damaged file: IndexError, ValueError, struct.error, ...
        raise BackboneError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    model, report = loaded
    tied = bool(model.config.tie_word_embeddings)
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    _refuse_incomplete(source, {tensor.name for tensor in reader.tensors}, weights, report["missing_keys"], tied)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    _write_config(model, folder / "config.json")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_config(model: Any, path: Path) -> None:
    config = {name: value for name, value in model.config.to_dict().items() if name not in _VOLATILE}
    config["architectures"] = [type(model).__name__]
    path.write_text(json.dumps(config, indent=1, default=str) + "\n", encoding="utf-8")


def _refuse_lossy(source: Path, facts: dict[str, Any]) -> None:
    """transformers passes over keys that it doesn't know; the ones that change the numbers must not be lost."""
    field = facts.get("general.architecture")
    architecture = field.contents() if field is not None else None
    if architecture not in ARCHITECTURES:
        raise BackboneError(
            f"{source} is a GGUF file of architecture {architecture}; of GGUF files only "
            f"{', '.join(sorted(ARCHITECTURES))} are read: take the model as safetensors"
        )
    width = facts.get(f"{architecture}.attention.key_length")
    if architecture.startswith("gemma") and (width is None or width.contents() != _GEMMA_HEAD):
        # Gemma 27B scales its attention by a number that the file does not hold, and that transformers sets to 256.
        raise BackboneError(
            f"{source} is a Gemma whose scale of attention GGUF does not hold: take it as safetensors"
        )
    scaling = facts.get(f"{architecture}.rope.scaling.type")
    if scaling is not None and scaling.contents() != "none":
        raise BackboneError(
            f"{source} scales its positions ({scaling.contents()}), which is not read from GGUF: "
            "take the model as safetensors"
        )


def _refuse_incomplete(source: Path, stored: set[str], weights: dict[str, Any], missing: Any, tied: bool) -> None:
    """Every tensor of the file must be a weight of the model, and the other way round.

    transformers leaves out tensors that it has no place for (``rope_freqs`` of Llama 3), and fills weights that
    the file lacks with random numbers; both give a model that runs and is wrong.
    """
    lost = [name for name in missing if not (tied and name == "lm_head.weight")]
    if lost or len(stored) != len(weights):
        extra = sorted(name for name in stored if not name.startswith(("blk.", "token_embd", "output")))
        named = ", ".join([*sorted(lost), *extra][:3]) or f"{len(stored)} stored, {len(weights)} used"
        raise BackboneError(
            f"{source} does not map onto the model one to one ({named}): take the model as safetensors"
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the progress bars and advice of the libraries: progress is ours to show."""
    from transformers.utils import logging

    transformers_logging: Any = logging
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
