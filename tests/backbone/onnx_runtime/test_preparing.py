"""Exports that are made at first use: once, whole or not at all, and again when they no longer fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connector.backbone.onnx_runtime.folder import RECORD, WEIGHTS, ExportedBackbone
from connector.backbone.onnx_runtime.preparing import prepare_export
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError
from connector.sections import Settings
from connector.settings import load_settings
from router_export.backbone import writing
from tests.backbone.tiny import save_tiny
from tests.checkpoints.tiny_gguf import write_llama

# What stands here hides torch, as on a machine where it is not installed.
HIDING = """
import importlib.abc, sys
HIDDEN = {"torch", "transformers", "accelerate", "onnxscript"}
class Hiding(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hiding())
from connector.cli import main
main()
"""


def settings_of(model: Path, cache: Path) -> Settings:
    return load_settings(
        os.devnull, {"cache.path": str(cache), "backbone.model": str(model), "backbone.dtype": "float32"}, {}
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    write_llama(tmp_path / "tiny.gguf")
    return settings_of(tmp_path / "tiny.gguf", tmp_path / "cache")


def test_it_is_written_once(tiny: Settings) -> None:
    told: list[tuple[str, float | None]] = []
    folder = prepare_export(tiny, 1, lambda label, fraction: told.append((label, fraction)))
    assert ExportedBackbone.read(folder).layers == 1
    assert [fraction for _, fraction in told] == [0.0, 1.0] and len({label for label, _ in told}) == 1
    before = (folder / WEIGHTS).stat().st_mtime_ns
    assert prepare_export(tiny, 1, lambda label, fraction: pytest.fail(label)) == folder
    assert (folder / WEIGHTS).stat().st_mtime_ns == before


def test_more_layers_are_written_when_they_are_read(tiny: Settings) -> None:
    folder = prepare_export(tiny, 1)
    assert prepare_export(tiny, None) == folder
    assert ExportedBackbone.read(folder).layers == 2


def test_a_router_of_a_deeper_model_is_refused_by_itself(tiny: Settings) -> None:
    assert ExportedBackbone.read(prepare_export(tiny, 40)).layers == 2


def test_a_file_that_cannot_be_read_is_named(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("connector.checkpoints.pulling.file_hashes", refused)
    with pytest.raises(BackboneError, match=r"cannot read .*tiny.gguf: Permission denied; give this user the right"):
        prepare_export(tiny, 1)


@pytest.mark.parametrize("damage", ["cut", "flipped", "record"])
def test_a_damaged_one_is_written_again(tiny: Settings, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = prepare_export(tiny, 1)
    whole = (folder / WEIGHTS).read_bytes()
    if damage == "cut":
        (folder / WEIGHTS).write_bytes(whole[:100])
    elif damage == "flipped":
        (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        (folder / RECORD).write_text("{")
    prepare_export(tiny, 1)
    assert (folder / WEIGHTS).read_bytes() == whole
    (told,) = caplog.messages
    assert str(folder) in told and told.endswith("; the graphs must be written anew")


def test_rot_that_changed_no_time_is_found_where_every_file_is_read(tiny: Settings) -> None:
    folder = prepare_export(tiny, 1)
    state, whole = (folder / WEIGHTS).stat(), (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(folder / WEIGHTS, ns=(state.st_atime_ns, state.st_mtime_ns))
    prepare_export(tiny, 1, verify=True)
    assert (folder / WEIGHTS).read_bytes() == whole


def test_another_file_under_the_same_name_is_another_model(tiny: Settings) -> None:
    folder = prepare_export(tiny, 1)
    first = ExportedBackbone.read(folder).digest
    write_llama(Path(tiny.backbone.model), pre="qwen2")
    prepare_export(tiny, 1)
    assert ExportedBackbone.read(folder).digest != first


def test_changed_weights_of_a_folder_are_another_model(smollm2: Checkpoint, tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    save_tiny("llama", model)
    (model / "tokenizer.json").write_bytes((smollm2.path / "tokenizer.json").read_bytes())
    folder = prepare_export(settings_of(model, tmp_path / "cache"), 1)
    assert ExportedBackbone.read(folder).digest == Checkpoint.open(model, "tiny").digest()
    save_tiny("qwen3", model)
    prepare_export(settings_of(model, tmp_path / "cache"), 1)
    assert ExportedBackbone.read(folder).shape.family == "qwen3"


def test_a_failure_leaves_nothing_and_the_next_call_goes_on(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "write_rows", full)
        with pytest.raises(BackboneError, match="No space left on device"):
            prepare_export(tiny, 1)
    models = tiny.cache.path / "models"
    assert not list(models.glob("*.onnx*"))
    # As a process leaves it that was killed.
    folder = models / "left"
    folder.mkdir()
    done = prepare_export(tiny, 1)
    folder.rename(done.with_name(f"{done.name}.99999999.part"))
    (done / WEIGHTS).write_bytes(b"")
    prepare_export(tiny, 1)
    assert [path.name for path in models.glob("*.onnx*")] == [done.name]


@pytest.mark.slow
def test_without_torch_the_shipped_model_reranks(smollm2: Checkpoint, tmp_path: Path) -> None:
    """As the default install does: nothing but the weights is here."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m").symlink_to(smollm2.path)
    line = (
        b'{"query": "how long do cats sleep", "documents": ["Rust is a language.", "Cats sleep 12 hours a day."]}\n'
    )
    arguments = ["--config", os.devnull, "--set", f"cache.path={tmp_path}", "rerank"]
    done = subprocess.run([sys.executable, "-c", HIDING, *arguments], input=line, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b'"reranked": true' in done.stdout and b'{"hits": [{"index": 1,' in done.stdout
    assert ExportedBackbone.read(tmp_path / "models" / "smollm2-135m.onnx").layers == 19


@pytest.mark.slow
def test_without_torch_a_model_that_ranks_by_likelihood_says_what_it_needs(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    arguments = ["--config", os.devnull, "--set", f"cache.path={tmp_path}"]
    arguments += ["--set", f"backbone.model={tmp_path / 'tiny.gguf'}", "rerank"]
    line = b'{"query": "hello", "documents": ["hel"]}\n'
    done = subprocess.run([sys.executable, "-c", HIDING, *arguments], input=line, capture_output=True, check=False)
    assert done.returncode == 4 and b"torch is not installed" in done.stderr
