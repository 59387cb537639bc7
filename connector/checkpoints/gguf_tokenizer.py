"""The tokenizer and chat template of a GGUF file, written as ``tokenizer.json`` and its neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from connector.checkpoints.gguf_weights import GgufWeights
from connector.errors import BackboneError

__all__ = ["write_tokenizer"]

# GPT-2's cut with every digit alone before it: the numbers' own tokens are the same without (there are no merges of
# digits), but blanks before a number come out wrong, as in "a  1".
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
_GPT2 = frozenset({"gpt-2", "gpt2", "olmo"})
_LLAMA3 = frozenset({"llama3", "llama-v3", "llama-bpe", "smaug-bpe", "dbrx"})
_QWEN2 = frozenset({"qwen2", "deepseek-r1-qwen"})
# Qwen's own tokenizers compose letters and their accents first; the file does not say so.
_COMPOSED = frozenset({"qwen2"})
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.token_type: control tokens, and those that are matched whole wherever they stand.
_CONTROL, _USER_DEFINED = 3, 4
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SPACE = "▁"


def write_tokenizer(weights: GgufWeights, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and, where the file has one, ``chat_template.jinja``.

    Args:
        weights: the file.
        folder: where they go; it exists.

    Raises:
        BackboneError: the file names a vocabulary or a cut that isn't known; any other would give wrong ids, in
            silence; or what it says of its tokenizer is damaged.
    """
    try:
        tokenizer, special = _tokenizer(weights)
        template = str(weights.fact("tokenizer.chat_template") or "")
        tokenizer.save(str(folder / "tokenizer.json"))
    except (BackboneError, OSError):
        raise
    except Exception as error:
        # tokenizers raises bare Exception for what it does not understand; damaged fields raise whatever comes up.
        raise BackboneError(f"cannot read {weights.source}: {' '.join(str(error).split())}") from error
    record = json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(record + "\n", encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _tokenizer(weights: GgufWeights) -> tuple[Tokenizer, dict[str, str]]:
    kind = weights.fact("tokenizer.ggml.model")
    tokens = [str(token) for token in weights.fact("tokenizer.ggml.tokens")]
    ids = {name: weights.fact(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    special = {name: tokens[index] for name, index in ids.items() if index is not None}
    if kind == "gpt2":
        tokenizer = _byte_level(weights, tokens)
    elif kind == "llama":
        tokenizer = _pieces(weights, tokens, special)
    else:
        raise BackboneError(
            f"{weights.source} has a vocabulary of a kind that is not known here (tokenizer.ggml.model = {kind}): "
            "take the model as safetensors"
        )
    types = weights.fact("tokenizer.ggml.token_type") or ()
    for wanted, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        known = tokenizer.get_vocab(with_added_tokens=False)
        add(
            [
                AddedToken(token, normalized=False, special=wanted == _CONTROL)
                for token, found in zip(tokens, types, strict=False)
                # One that the vocabulary spells in another way would get a number that no embedding has.
                if found == wanted and token in known
            ]
        )
    # llama.cpp puts the first token before text of a SentencePiece vocabulary, unless the file says otherwise.
    first = special.get("bos_token") if weights.fact("tokenizer.ggml.add_bos_token", kind == "llama") else None
    if first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B:1", special_tokens=[(first, ids["bos_token"])]
        )
    return tokenizer, special


def _byte_level(weights: GgufWeights, tokens: Sequence[str]) -> Tokenizer:
    merges = [
        (left, right) for left, right in (str(merge).split(" ") for merge in weights.fact("tokenizer.ggml.merges"))
    ]
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    if weights.fact("tokenizer.ggml.pre") in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cut(weights)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _cut(weights: GgufWeights) -> Any:
    """How a byte-level vocabulary cuts text before merging: the way that it was learned with."""
    name = weights.fact("tokenizer.ggml.pre")
    if name in _DIGITS_FIRST:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _LLAMA3 | _QWEN2:
        words = _WORDS % ("{1,3}" if name in _LLAMA3 else "")
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words + _BLANKS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise BackboneError(
        f"{weights.source} cuts text in a way that is not known here (tokenizer.ggml.pre = {name}): "
        "take the model as safetensors"
    )


def _pieces(weights: GgufWeights, tokens: Sequence[str], special: Mapping[str, str]) -> Tokenizer:
    """A SentencePiece vocabulary: pieces with scores, and the merges that follow from them."""
    gemma = str(weights.config["model_type"]).startswith("gemma")
    if gemma:
        # Runs of blanks are stored as blanks. Its scores are no order of merges; the tokens' own order is.
        tokens = [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        scores: Sequence[float] = [-float(index) for index in range(len(tokens))]
    else:
        scores = weights.fact("tokenizer.ggml.scores")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = _merges(vocabulary, dict(zip(tokens, scores, strict=True)))
    unknown = special.get("unk_token", "<unk>")
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            fuse_unk=True,
            byte_fallback=True,
            unk_token=unknown if unknown in vocabulary else None,
        )
    )
    if gemma:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    else:
        scheme = "first" if weights.fact("tokenizer.ggml.add_space_prefix", True) else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, pieces with the best scores first."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece, score in scores.items():
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        ways = [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]
        ways.sort(key=lambda way: (vocabulary[way[0]], vocabulary[way[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in ways]
    found.sort(key=lambda entry: entry[:3], reverse=True)
    return [(left, right) for *_, left, right in found]
