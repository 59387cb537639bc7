"""Checkpoints: what is refused, and what a digest depends on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from connector.checkpoints import file_hashes
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.model_facts import describe
from connector.errors import BackboneError

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(2)}, path / "model.safetensors")
    return path


def refused(folder: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        Checkpoint.open(folder, "m")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "pickled" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no *.safetensors" in refused(folder)


def test_pickles_beside_safetensors_are_passed_over(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert Checkpoint.open(folder, "m").weight_files() == (folder / "model.safetensors",)


def test_models_with_code_of_their_own_are_refused(folder: Path) -> None:
    own = {**CONFIG, "model_type": "newformer", "auto_map": {"AutoModelForCausalLM": "modeling_new.NewModel"}}
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "modeling_new.py").write_text("raise SystemExit('run')")
    assert "never run" in refused(folder)
    # Phi-3 comes with such code, and with an implementation in transformers that is used instead.
    (folder / "config.json").write_text(json.dumps({**own, "model_type": "phi3"}))
    Checkpoint.open(folder, "m")


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json" in refused(folder)
    (folder / "config.json").unlink()
    assert "config.json" in refused(folder)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    assert "not a folder" in refused(folder / "config.json")


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_cut_weights_are_refused(keep: int, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "damaged" in refused(folder)


def test_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert "model-2.safetensors is missing" in refused(folder)
    save_file({"b": torch.zeros(2)}, folder / "model-2.safetensors")
    assert [file.name for file in Checkpoint.open(folder, "m").weight_files()] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    index.write_text('{"weight_map": 3}')
    assert "damaged" in refused(folder)


def test_an_index_cannot_point_elsewhere(folder: Path) -> None:
    index = {"weight_map": {"a": "../../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert str(folder / "outside.safetensors") in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_digest_changes_with_every_file(name: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(folder, "m", tmp_path / "cache")
    before = checkpoint.digest()
    assert before == Checkpoint(folder, "other name").digest()
    (folder / name).write_text('{"changed": true}')
    assert checkpoint.digest() != before


def test_a_digest_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    before = Checkpoint(folder, "m").digest()
    folder.rename(tmp_path / "elsewhere")
    assert Checkpoint(tmp_path / "elsewhere", "m").digest() == before


def test_digests_are_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(folder, "m", tmp_path / "cache")
    files = sorted(os.listdir(folder))
    before = checkpoint.digest()
    assert sorted(os.listdir(folder)) == files
    # Another process knows nothing yet.
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes, "sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    assert checkpoint.digest() == before


def test_a_damaged_memory_is_passed_over(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(folder, "m", tmp_path / "cache")
    before = checkpoint.digest()
    for file in (tmp_path / "cache" / "digests").iterdir():
        file.write_text("[1, 2")
    monkeypatch.setattr(file_hashes, "_known", {})
    assert checkpoint.digest() == before


def test_a_memory_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert Checkpoint(folder, "m", tmp_path / "cache").digest() == Checkpoint(folder, "m").digest()


def test_templates(folder: Path) -> None:
    checkpoint = Checkpoint(folder, "m")
    assert checkpoint.template() == "plain"
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert checkpoint.template() == "chat"
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert checkpoint.template() == "chat"


def test_description(folder: Path) -> None:
    facts = describe(Checkpoint(folder, "m"))
    assert facts["parameters"] == 14
    assert (facts["layers"], facts["heads"], facts["kv_heads"], facts["head_dim"]) == (2, 4, 4, 8)
    assert (facts["source"], facts["verified"], facts["licence"]) == ("folder", False, None)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BackboneError, match="no decoder"):
        describe(Checkpoint(folder, "m"))
