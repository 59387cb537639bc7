"""Tokenizers out of GGUF files: the ids that transformers' own conversion gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2Tokenizer

from connector.checkpoints.gguf_tokenizer import write_tokenizer
from connector.checkpoints.gguf_weights import GgufWeights
from connector.errors import BackboneError
from tests.checkpoints.tiny_gguf import MERGES, write_gemma3, write_llama

TEXTS = [
    "hello hel  he 1",
    " a  b12\n\n\nhe",
    "it's café 日本 😀",
    "<|im_end|>hello<end_of_turn>",
    "   ",
    "",
]


def written(source: Path, folder: Path) -> Tokenizer:
    folder.mkdir()
    write_tokenizer(GgufWeights(source), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def rewritten(source: Path, target: Path, drop: tuple[str, ...] = (), **fields: Any) -> None:
    """The same file with other fields."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in drop or name in fields:
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, value in fields.items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def same_ids(folder: Path) -> Tokenizer:
    """Of ``tiny.gguf`` there, written by us; it gives the ids that transformers gives."""
    ours = written(folder / "tiny.gguf", folder / "out")
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text).input_ids
    return ours


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_byte_level_vocabularies(pre: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", pre=pre)
    ours = same_ids(tmp_path)
    for text in TEXTS:
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_qwen_composes_accents_first(tmp_path: Path) -> None:
    """As its own tokenizer does; transformers' reading of GGUF files knows it by the architecture alone."""
    write_llama(tmp_path / "qwen.gguf", pre="qwen2")
    ours = written(tmp_path / "qwen.gguf", tmp_path / "out")
    theirs = Qwen2Tokenizer(
        vocab=ours.get_vocab(with_added_tokens=False), merges=[tuple(merge.split()) for merge in MERGES]
    )
    for text in ("cafe\u0301", "caf\u00e9", "hello"):
        assert ours.encode(text).ids == theirs(text).input_ids
    assert ours.encode("cafe\u0301").ids == ours.encode("caf\u00e9").ids
    write_llama(tmp_path / "other.gguf", pre="llama-bpe")
    other = written(tmp_path / "other.gguf", tmp_path / "other")
    assert other.encode("cafe\u0301").ids != other.encode("caf\u00e9").ids


def test_gemma_s_pieces(tmp_path: Path) -> None:
    write_gemma3(tmp_path / "tiny.gguf")
    same_ids(tmp_path)


def test_llama_s_pieces(tmp_path: Path) -> None:
    """The vocabulary of a Gemma in a file that says Llama, whose scores order the merges."""
    write_gemma3(tmp_path / "gemma.gguf")
    write_llama(tmp_path / "bytes.gguf")
    fields = gguf.GGUFReader(tmp_path / "gemma.gguf").fields
    kept = {name: fields[name].contents() for name in fields if name.startswith("tokenizer.")}
    kept["tokenizer.ggml.tokens"] = [token.replace("  ", "▁▁") for token in kept["tokenizer.ggml.tokens"]]
    kept["tokenizer.ggml.add_space_prefix"] = True
    rewritten(
        tmp_path / "bytes.gguf",
        tmp_path / "tiny.gguf",
        drop=("tokenizer.ggml.merges", "tokenizer.chat_template"),
        **kept,
    )
    same_ids(tmp_path)


def test_a_kind_of_vocabulary_that_is_not_known(tmp_path: Path) -> None:
    write_llama(tmp_path / "bytes.gguf")
    rewritten(tmp_path / "bytes.gguf", tmp_path / "tiny.gguf", **{"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(BackboneError, match="tokenizer.ggml.model = rwkv"):
        written(tmp_path / "tiny.gguf", tmp_path / "out")
