"""Export of backbones: the graphs give torch's numbers, or nothing is written and an older export stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from connector.backbone.onnx_runtime.folder import RECORD, WEIGHTS, ExportedBackbone, graph_name
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import BackboneError, SettingsError
from router_export import export_backbone
from tests.backbone.tiny import config_of, save_tiny
from tests.backbone.tiny_exports import TinyExports


@pytest.fixture(scope="module")
def checkpoint(tiny_exports: TinyExports) -> Checkpoint:
    return tiny_exports.checkpoint("llama")


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tiny_exports: TinyExports) -> Path:
    return tiny_exports.exported(checkpoint, 3)


def test_all_graphs_share_one_file_of_weights(checkpoint: Checkpoint, exported: Path) -> None:
    record = ExportedBackbone.read(exported)
    assert record.digest == checkpoint.digest()
    assert (record.layers, record.shape.layers, record.shape.family, record.dtype) == (3, 4, "llama", "float32")
    assert {path.name for path in exported.iterdir()} == {RECORD, *record.files}
    used = set()
    for layer in range(3):
        model = onnx.load(str(exported / graph_name(layer)), load_external_data=False)
        onnx.checker.check_model(str(exported / graph_name(layer)))
        for tensor in model.graph.initializer:
            used |= {entry.value for entry in tensor.external_data if entry.key == "location"}
        # The exporter's notes would name the folders of the machine that it ran on.
        assert str(Path(__file__).parents[3]).encode() not in (exported / graph_name(layer)).read_bytes()
    assert used == {WEIGHTS}


def test_an_export_again_replaces_it(checkpoint: Checkpoint, exported: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(exported, here)
    written = export_backbone(checkpoint, here, 1)
    assert written.exported == ExportedBackbone.read(here) and written.exported.layers == 1
    assert {path.name for path in here.iterdir()} == {RECORD, *written.exported.files}
    assert written.bytes == sum(path.stat().st_size for path in here.iterdir() if path.name != RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("layers", [0, 5])
def test_layers_that_it_does_not_have(checkpoint: Checkpoint, tmp_path: Path, layers: int) -> None:
    with pytest.raises(BackboneError, match=f"--layers {layers}: llama has 4 layers; give 1 to 4"):
        export_backbone(checkpoint, tmp_path / "x", layers)


def test_a_folder_of_something_else_is_left_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BackboneError, match="no exported backbone"):
        export_backbone(checkpoint, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_that_cannot_be_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackboneError, match="cannot write"):
        export_backbone(checkpoint, tmp_path / "file" / "x", 1)


def test_other_numbers_than_torch_s_are_not_written(
    checkpoint: Checkpoint, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / RECORD).read_bytes()
    read = OnnxRuntime.read

    def wrong(self: OnnxRuntime, *args: Any, **options: Any) -> Any:
        return [replace(found, rows=found.rows + np.float32(1e-4)) for found in read(self, *args, **options)]

    monkeypatch.setattr(OnnxRuntime, "read", wrong)
    with pytest.raises(BackboneError, match=r"attention differs from torch's by 0\.0001.*nothing was written"):
        export_backbone(checkpoint, exported, 1)
    assert (exported / RECORD).read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_families_whose_attention_is_not_captured_say_so(smollm2: Checkpoint, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "odd")
    config = config_of("qwen2")
    config.layer_types = ["chunked_attention"] * 4
    config.save_pretrained(tmp_path / "odd")
    shutil.copy(smollm2.path / "tokenizer.json", tmp_path / "odd")
    with pytest.raises(BackboneError) as caught:
        export_backbone(Checkpoint.open(tmp_path / "odd", "odd"), tmp_path / "x", 1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_the_command_writes_where_the_runtime_looks(checkpoint: Checkpoint, tmp_path: Path) -> None:
    common = ["--set", f"cache.path={tmp_path}", "--set", f"backbone.model={checkpoint.path}", "--json", "export"]
    done = CliRunner().invoke(cli, [*common, "--backbone", "--layers", "1"], catch_exceptions=False)
    written = json.loads(done.stdout)
    assert Path(written["folder"]).parent == tmp_path / "models"
    assert OnnxRuntime.load(Path(written["folder"])).shape.layers == 4
    assert (written["layers"], written["dtype"]) == (1, "float32")
    done = CliRunner().invoke(cli, [*common, "--backbone", "--layers", "1", "--precision", "int8"])
    small = json.loads(done.stdout)
    assert small["dtype"] == "int8" and Path(small["folder"]).name == f"{Path(written['folder']).stem}.int8.onnx"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["router.safetensors", "--backbone"], "--backbone goes without ROUTER"),
        (["--backbone", "--inspect", "r.onnx"], "--backbone goes without ROUTER"),
        (["router.safetensors", "--layers", "3"], "--layers 3 is of backbones"),
        (["router.safetensors", "--precision", "int8"], "--precision int8 is of backbones"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli, ["export", *arguments])
    assert isinstance(done.exception, SettingsError)
    assert message in str(done.exception)
