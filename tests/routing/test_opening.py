"""Which runtime is taken: what is here and faster, and torch where ONNX Runtime cannot."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from connector.backbone.reader import Reader
from connector.errors import BackboneError, DataError, MissingExtraError
from connector.routing import opening
from connector.routing.opening import pull_model, takes_onnx
from connector.sections import Settings
from connector.settings import load_settings
from tests.backbone.tiny_exports import TinyExports
from tests.checkpoints.tiny_gguf import write_llama
from tests.embedding.tiny_model import save_embedder


class Machine:
    """Of a reach that a test sets: what is installed, and what the processor has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def has(self, *, torch: bool = True, cuda: bool = False, bfloat16: bool = False) -> None:
        self._monkeypatch.setattr(opening, "torch_is_installed", lambda: torch)
        self._monkeypatch.setattr(opening, "has_cuda", lambda: cuda)
        self._monkeypatch.setattr(opening, "multiplies_bfloat16", lambda: bfloat16)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def settings_of(**options: str) -> Settings:
    return load_settings(os.devnull, {name.replace("__", "."): value for name, value in options.items()}, {})


@pytest.mark.parametrize(
    ("has", "options", "onnx"),
    [
        ({"torch": False}, {}, True),
        ({"torch": False}, {"backbone__layout": "late"}, True),
        ({}, {}, True),
        ({"bfloat16": True}, {}, False),
        ({"cuda": True}, {}, False),
        ({}, {"backbone__device": "cuda"}, False),
        ({"cuda": True}, {"backbone__device": "cpu"}, True),
        ({}, {"backbone__dtype": "bfloat16"}, False),
        ({}, {"cache__dtype": "int4"}, False),
        ({}, {"backbone__layout": "late"}, False),
        ({}, {"router__mode": "all"}, False),
        ({"bfloat16": True}, {"backbone__dtype": "int8"}, True),
        ({"bfloat16": True}, {"backbone__runtime": "onnx"}, True),
        ({}, {"backbone__runtime": "torch"}, False),
        # No router is shipped: it ranks by likelihood, which is torch's.
        ({}, {"backbone__model": "some/model"}, False),
    ],
)
def test_the_faster_one_is_taken(has: dict[str, bool], options: dict[str, str], onnx: bool, machine: Machine) -> None:
    machine.has(**has)
    assert takes_onnx(settings_of(**options)) is onnx


def test_likelihood_without_torch(machine: Machine) -> None:
    machine.has(torch=False)
    with pytest.raises(MissingExtraError) as caught:
        takes_onnx(settings_of(backbone__model="some/model"))
    assert caught.value.extra == "torch"


def test_torch_reads_where_no_export_can_be_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.has()
    opened: list[str] = []

    def refused(*_: Any) -> None:
        raise BackboneError("the disk is full")

    def chosen(settings: Settings, progress: Any) -> Any:
        opened.append(settings.backbone.runtime)

    monkeypatch.setattr(opening, "prepare_export", refused)
    monkeypatch.setattr(opening, "open_chosen", chosen)
    opening.open_reader(settings_of())
    assert opened == ["torch"] and "the disk is full" in caplog.text
    for alone in (settings_of(backbone__runtime="onnx"), settings_of()):
        machine.has(torch=False)
        with pytest.raises(BackboneError, match="the disk is full"):
            opening.open_reader(alone)
    assert opened == ["torch"]


def test_what_was_made_is_what_reads(machine: Machine, tiny_exports: TinyExports, tmp_path: Path) -> None:
    machine.has(torch=False)
    model = tmp_path / "tiny"
    shutil.copytree(tiny_exports.checkpoint("llama").path, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    settings = settings_of(cache__path=str(tmp_path), backbone__model=str(model), backbone__layout="late")
    reader = opening.open_reader(settings)
    assert isinstance(reader, Reader) and reader.plan["runtime"] == "onnx"
    assert [path.suffix for path in (tmp_path / "models").iterdir() if path.is_dir() and path.name[0] != "."] == [
        ".onnx"
    ]


@pytest.mark.parametrize("torch", [True, False])
def test_pull_makes_what_is_run(torch: bool, machine: Machine, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    settings = settings_of(
        cache__path=str(tmp_path), backbone__model=str(tmp_path / "tiny.gguf"), backbone__layout="late"
    )
    machine.has(torch=torch)
    pulled = pull_model(settings, lambda label, fraction: None)
    assert pulled.name == "tiny" and (pulled.path.suffix == ".onnx") is not torch
    made = sorted(path.name.partition("-")[0] for path in (tmp_path / "models").iterdir() if path.name[0] != ".")
    assert made == (["gguf"] if torch else ["tiny.gguf"])
    # A model that nothing ranks by here is still fetched and checked.
    machine.has(torch=False)
    alone = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"layout": "solo"})})
    assert pull_model(alone, lambda label, fraction: None).digest == pulled.digest


def test_pull_fetches_the_embedding_model_too(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path / "tiny.gguf")
    machine.has(torch=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = str(tmp_path / "tiny.gguf")
    given = {"cache__path": str(tmp_path), "backbone__model": model, "backbone__offline": "true"}
    said: list[str] = []
    told = r"cannot fetch bge-small-en-v1\.5 .* run rh-connector --set router\.embedder=bge-small-en-v1\.5 model pull"
    with pytest.raises(DataError, match=told):
        pull_model(
            settings_of(**given, router__embedder="bge-small-en-v1.5"), lambda label, fraction: said.append(label)
        )
    assert said == ["looking for bge-small-en-v1.5"]
    here = save_embedder(tmp_path / "here")
    assert pull_model(settings_of(**given, router__embedder=str(here)), lambda label, fraction: None).name == "tiny"


def test_the_processor_s_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for flags, has in (("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 sse", True)):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        monkeypatch.setattr(opening, "_CPU_FACTS", tmp_path / "cpuinfo")
        opening.multiplies_bfloat16.cache_clear()
        assert opening.multiplies_bfloat16() is has
    monkeypatch.setattr(opening, "_CPU_FACTS", tmp_path / "nothing")
    opening.multiplies_bfloat16.cache_clear()
    assert not opening.multiplies_bfloat16()
    monkeypatch.undo()
    opening.multiplies_bfloat16.cache_clear()
