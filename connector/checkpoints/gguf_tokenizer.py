"""How a byte-level vocabulary in a GGUF file cuts text before merging: ``tokenizer.ggml.pre``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.errors import BackboneError

__all__ = ["mend_tokenizer"]

# GPT-2's cut with every digit alone before it. transformers knows none of these names and leaves the digits in:
# the numbers' own tokens are the same (there are no merges of digits), but blanks before a number come out wrong,
# as in "a  1".
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
_GPT2 = frozenset({"gpt-2", "gpt2", "olmo"})
_LLAMA3 = frozenset({"llama3", "llama-v3", "llama-bpe", "smaug-bpe", "dbrx"})
_QWEN2 = frozenset({"qwen2", "deepseek-r1-qwen"})
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def mend_tokenizer(tokenizer: Any, facts: Mapping[str, Any], source: Path) -> None:
    """Give a byte-level tokenizer the cut that its vocabulary was learned with.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; changed in place.
        facts: field name -> field of the GGUF file.
        source: that file, for errors.

    Raises:
        BackboneError: the file names a cut that isn't known; any other would give wrong ids, in silence.
    """
    if _text(facts, "tokenizer.ggml.model") != "gpt2":
        # SentencePiece vocabularies (llama, gemma) are not cut.
        return
    from tokenizers import Regex, pre_tokenizers

    name = _text(facts, "tokenizer.ggml.pre")
    if name in _DIGITS_FIRST:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name in _GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif name in _LLAMA3 | _QWEN2:
        words = _WORDS % ("{1,3}" if name in _LLAMA3 else "")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words + _BLANKS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise BackboneError(
            f"{source} cuts text in a way that is not known here (tokenizer.ggml.pre = {name}): "
            "take the model as safetensors"
        )


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    field = facts.get(name)
    return None if field is None else str(field.contents())
