"""Graphs that are written by hand: of every family they give torch's numbers, from folders and from GGUF files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from connector.backbone.onnx_runtime.folder import ExportedBackbone
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.file_hashes import sha256_of
from connector.checkpoints.gguf_conversion import convert_gguf
from connector.checkpoints.pulling import obtain
from connector.errors import BackboneError
from router_export import export_backbone
from router_export.backbone import writing
from router_export.backbone.decoders import WRITTEN, Decoder, UnwrittenError
from router_export.backbone.graph_files import onnx_library, store
from router_export.backbone.sources import Source
from router_export.backbone.writing import EMBEDDING_TOLERANCE, TOLERANCE
from tests.backbone.tiny import FAMILIES, WINDOW, config_of
from tests.backbone.tiny_exports import TinyExports
from tests.checkpoints.tiny_gguf import write_gemma3, write_llama

SLOW_TURNS = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MIXED_TURNS = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be traced."""

    def traced(*_: Any) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr(writing, "_traced", traced)


def same_as_torch(checkpoint: Checkpoint, folder: Path) -> None:
    written = export_backbone(checkpoint, folder)
    assert written.rows_difference is not None and written.rows_difference <= TOLERANCE
    assert written.embedding_difference is not None and written.embedding_difference <= EMBEDDING_TOLERANCE


def changed(family: str, folder: Path, texts: Path, **options: Any) -> Checkpoint:
    """A random model of that family with something else in its config."""
    torch.manual_seed(3)
    config = config_of(family)
    for name, value in options.items():
        setattr(config, name, value)
    config.initializer_range = 0.25
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    shutil.copy(texts / "tokenizer.json", folder)
    return Checkpoint.open(folder, family)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family in WRITTEN])
def test_every_family_gives_torch_s_numbers(family: str, tiny_exports: TinyExports, tmp_path: Path) -> None:
    same_as_torch(tiny_exports.checkpoint(family), tmp_path / "x")


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": SLOW_TURNS}),
        ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
        ("gemma3_text", {"rope_parameters": MIXED_TURNS}),
    ],
)
def test_what_a_config_may_say(family: str, options: dict[str, Any], smollm2: Checkpoint, tmp_path: Path) -> None:
    same_as_torch(changed(family, tmp_path / "tiny", smollm2.path, **options), tmp_path / "x")


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3_text"])
def test_configs_of_older_releases(family: str, smollm2: Checkpoint, tmp_path: Path) -> None:
    """Without layer_types, and with the base of positions at the top; torch reads the same file."""
    checkpoint = changed(family, tmp_path / "tiny", smollm2.path)
    config = checkpoint.config()
    layers = {"layer_types"} if family != "qwen2" else set()
    turns = config.pop("rope_parameters")
    config = {name: value for name, value in config.items() if name not in layers}
    config["rope_theta"] = turns.get("full_attention", turns)["rope_theta"]
    if family == "llama":
        config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    if family == "gemma3_text":
        config |= {"rope_local_base_freq": 10_000.0, "sliding_window_pattern": 2}
    (checkpoint.path / "config.json").write_text(json.dumps(config))
    same_as_torch(checkpoint, tmp_path / "x")
    windows = {"gemma2": (WINDOW, None) * 2, "gemma3_text": (WINDOW, None) * 2}
    if family in windows:
        assert ExportedBackbone.read(tmp_path / "x").windows == windows[family]


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_in_other_formats(stored: torch.dtype, smollm2: Checkpoint, tmp_path: Path) -> None:
    checkpoint = changed("llama", tmp_path / "tiny", smollm2.path)
    file = checkpoint.path / "model.safetensors"
    save_file({name: weight.to(stored) for name, weight in load_file(file).items()}, file, {"format": "pt"})
    same_as_torch(checkpoint, tmp_path / "x")


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("write", [write_llama, write_gemma3])
def test_a_gguf_file_gives_the_numbers_of_its_conversion(write: Any, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write(file)
    written = export_backbone(Source.of_gguf(file, "tiny", sha256_of(file)), tmp_path / "x")
    # Nothing to compare with: torch reads no GGUF file.
    assert written.rows_difference is None
    convert_gguf(file, tmp_path / "converted")
    theirs = TorchRuntime.load(tmp_path / "converted", device="cpu", dtype="float32", cache_dtype="float32")
    ours = OnnxRuntime.load(tmp_path / "x", cache_dtype="float32")
    rows, embedding, _ = writing._compare(theirs, ours, written.exported.layers, 60)
    assert rows <= TOLERANCE and embedding <= EMBEDDING_TOLERANCE
    assert written.exported.digest == obtain(str(file), cache=tmp_path / "cache").digest()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()


def test_families_that_are_not_written_need_torch(
    tiny_exports: TinyExports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.of_checkpoint(tiny_exports.checkpoint("granite"))
    alone = Source(source.name, source.digest, source.weights, source.write_texts)
    with pytest.raises(BackboneError, match=r"granite is none of gemma2, .*set backbone.runtime to torch"):
        export_backbone(alone, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"rope_parameters": {"rope_type": "linear"}},
            r"tiny: of its scaled positions \(linear\): KeyError\('factor'",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2}}, r"\(llama3\): KeyError\('low_freq_factor'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "tiny scales its positions by yarn"),
        ({"hidden_act": "relu"}, "tiny has hidden_act = relu"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["b", "a"] * 4}, "tiny: .* name a, b"),
    ],
)
def test_what_is_not_written_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UnwrittenError, match=told):
        Decoder.of(config_of("llama").to_dict() | options, "tiny")


def test_a_single_number_stays_one(tmp_path: Path) -> None:
    onnx = onnx_library()
    with (tmp_path / "weights").open("wb") as file:
        for array in (np.array(3), np.array([3]), np.ones((40, 40), dtype=np.float32).T[:, ::2]):
            kept = store(onnx, "x", array, file)
            assert tuple(kept.dims) == array.shape
        file.flush()
        assert (tmp_path / "weights").stat().st_size == 40 * 20 * 4


def test_an_empty_folder_may_be_the_one_that_one_is_in(
    smollm2: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = changed("llama", tmp_path / "tiny", smollm2.path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export_backbone(checkpoint, Path(), compare=False).folder == tmp_path / "here"
    assert ExportedBackbone.read(tmp_path / "here").layers == checkpoint.config()["num_hidden_layers"]


def test_weights_that_are_not_finite_are_not_written(smollm2: Checkpoint, tmp_path: Path) -> None:
    checkpoint = changed("llama", tmp_path / "tiny", smollm2.path)
    file = checkpoint.path / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BackboneError, match="not finite; nothing was written"):
        export_backbone(checkpoint, tmp_path / "x", compare=False)
    assert not (tmp_path / "x").exists()


def test_int8_weights_are_compared_with_the_float32_graphs_where_there_is_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    write_llama(file)
    source = Source.of_gguf(file, "tiny", sha256_of(file))
    assert export_backbone(source, tmp_path / "x", precision="int8").exported.dtype == "int8"
    assert OnnxRuntime.load(tmp_path / "x", dtype="int8").precision.startswith("int8")
    monkeypatch.setattr(writing, "_apart", lambda *states: 0.3)
    with pytest.raises(BackboneError, match="length of the states differs from float32's by 0.3"):
        export_backbone(source, tmp_path / "y", precision="int8")
    assert not (tmp_path / "y").exists()
