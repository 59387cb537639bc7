"""GGUF files: the numbers and the token ids that come out are the ones that went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from connector.checkpoints import gguf_conversion
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.gguf_conversion import convert_gguf
from connector.errors import BackboneError
from tests.checkpoints.tiny_gguf import CONTROL, write_gemma3, write_llama

TEXTS = ["hello", " hel  1", "a  12\t3\n\n\nhe", "it's café 日本 😀", "<|im_start|>user\nhi<|im_end|>", ""]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    model = write_llama(folder / "tiny.gguf")
    convert_gguf(folder / "tiny.gguf", folder / "out")
    return folder / "out", model


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("gemma")
    model = write_gemma3(folder / "tiny.gguf")
    convert_gguf(folder / "tiny.gguf", folder / "out")
    return folder / "out", model


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_every_weight_is_as_it_was(family: str, request: pytest.FixtureRequest) -> None:
    folder, model = request.getfixturevalue(family)
    converted = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    expected = model.state_dict()
    found = converted.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        # Gemma's norms travel as w + 1, which costs their last bit.
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6 if "norm" in name else 0)
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    with torch.inference_mode():
        torch.testing.assert_close(converted(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_large_model_comes_in_several_files(
    llama: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than one of them is ever in memory."""
    source, model = llama[0].parent / "tiny.gguf", llama[1]
    monkeypatch.setattr(gguf_conversion, "_FILE_BYTES", 20_000)
    convert_gguf(source, tmp_path / "out")
    files = Checkpoint.open(tmp_path / "out", "tiny").weight_files()
    assert len(files) > 2 and not (tmp_path / "out" / "model.safetensors").exists()
    assert all(file.stat().st_size < 60_000 for file in files)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True, use_safetensors=True)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], weight, rtol=0, atol=0)


def test_the_fast_tokenizer_and_the_product_s_agree(llama: tuple[Path, Any], gemma: tuple[Path, Any]) -> None:
    for folder, _ in (llama, gemma):
        ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for text in TEXTS:
            assert ours.encode(text).ids == theirs(text).input_ids


def test_digits_are_cut_off_before_blanks(llama: tuple[Path, Any]) -> None:
    tokenizer = Tokenizer.from_file(str(llama[0] / "tokenizer.json"))
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.encode(" hel").tokens == ["Ġ", "hel"]


def test_control_tokens_stay_whole(llama: tuple[Path, Any], gemma: tuple[Path, Any]) -> None:
    record = json.loads((llama[0] / "tokenizer.json").read_text())
    assert [token["content"] for token in record["added_tokens"] if token["special"]] == list(CONTROL)
    assert Tokenizer.from_file(str(llama[0] / "tokenizer.json")).encode("<|im_end|>").ids == [2]
    tokenizer = Tokenizer.from_file(str(gemma[0] / "tokenizer.json"))
    assert tokenizer.encode("<start_of_turn>hel  1").tokens == ["<bos>", "<start_of_turn>", "hel", "▁▁", "1"]


def test_gemma_keeps_its_two_kinds_of_layers(gemma: tuple[Path, Any]) -> None:
    config = Checkpoint.open(gemma[0], "tiny").config()
    assert config["layer_types"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1_000_000
    assert (config["sliding_window"], config["query_pre_attn_scalar"]) == (512, 256)


def test_the_template_comes_along(llama: tuple[Path, Any], gemma: tuple[Path, Any]) -> None:
    assert Checkpoint.open(llama[0], "tiny").template() == "chat"
    assert Checkpoint.open(gemma[0], "tiny").template() == "plain"


def test_config_says_nothing_about_this_machine(llama: tuple[Path, Any]) -> None:
    text = "".join(file.read_text() for file in llama[0].glob("*.json"))
    assert str(llama[0].parent) not in text
    assert "quantization_config" not in text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extra": {"rope_freqs.weight": np.ones(4, np.float32)}}, "rope_freqs"),
        ({"llama__rope__scaling__type": "yarn"}, "scales its positions"),
        ({"pre": "some-new-cut"}, "some-new-cut"),
    ],
)
def test_what_would_be_lost_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", **options)
    with pytest.raises(BackboneError, match=reason):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")


def test_a_gemma_whose_scale_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    write_gemma3(tmp_path / "tiny.gguf", head_dim=128)
    with pytest.raises(BackboneError, match="scale of attention"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_a_cut_file_is_refused_in_one_line(size: int, tmp_path: Path) -> None:
    write_llama(tmp_path / "whole.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:size])
    with pytest.raises(BackboneError) as caught:
        convert_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    assert "cut.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_real_one(smollm2: Checkpoint) -> None:
    """SmolLM2: known ids, and a continuation that only the right weights give."""
    tokenizer = Tokenizer.from_file(str(smollm2.path / "tokenizer.json"))
    encoded = tokenizer.encode("<|im_start|>In 1998  12")
    assert encoded.tokens == ["<|im_start|>", "In", "Ġ", "1", "9", "9", "8", "ĠĠ", "1", "2"]
    model = AutoModelForCausalLM.from_pretrained(smollm2.path, local_files_only=True, use_safetensors=True)
    ids = torch.tensor([tokenizer.encode("The capital of France is").ids])
    with torch.inference_mode():
        best = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.decode([best]) == " Paris"
