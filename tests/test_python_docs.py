"""The Python page's blocks run, one after the other, with the real small LLM on a tiny collection."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import connector
from connector.checkpoints.checkpoint import Checkpoint
from connector.routing.bundle import Bundle
from connector.sections import Settings
from tests.evaluation.folders import write_jsonl

# Too few to cross-validate routing: training ends in seconds.
_PETS = ("cat", "dog", "horse", "parrot", "hamster", "rabbit", "mouse", "snake")


@pytest.fixture
def folder(tmp_path: Path, settings: Settings, smollm2: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a collection that has both splits, and a cache folder of its own with the model in it."""
    collection = tmp_path / "pets"
    collection.mkdir()
    documents = [
        {"_id": f"d{at}", "title": f"The {pet}", "text": f"The {pet} rests {at + 2} hours a day, and eats twice."}
        for at, pet in enumerate(_PETS)
    ]
    write_jsonl(collection / "corpus.jsonl", documents)
    for suffix, pets in (("", _PETS[:3]), ("_train", _PETS)):
        queries = [{"_id": f"q{at}", "text": f"how many hours does a {pet} rest"} for at, pet in enumerate(pets)]
        write_jsonl(collection / f"queries{suffix}.jsonl", queries)
        judged = "".join(f"q{at}\td{at}\t1\n" for at in range(len(pets)))
        (collection / f"qrels{suffix}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    models = tmp_path / "cache" / "rh-connector" / "models"
    models.mkdir(parents=True)
    (models / "smollm2-135m").symlink_to(smollm2.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_blocks_run_in_order(repository: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (repository / "docs/python.md").read_text()
    names: dict[str, Any] = {}
    printed = []
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    ranked, fused, chosen, measured, trained, error = printed
    assert [line.split()[0] for line in ranked.splitlines()] == ["1", "0"]
    assert fused == "['cats', 'rust', 'bread'] True None\n"
    assert chosen == "3 smollm2-135m\n"
    assert "routed+first-stage (pool)" in measured and measured.startswith("first-stage ")
    assert trained.startswith("pets.onnx ") and Bundle.load(folder / "pets.onnx").metadata.layout == "solo"
    assert error.startswith("BackboneError: no-such-model ")


def test_every_name_is_there_and_typed_for_editors() -> None:
    for name in connector.__all__:
        assert getattr(connector, name) is not None
        assert name in dir(connector)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        connector.nothing  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("name", connector.__all__)
def test_no_name_needs_torch(name: str) -> None:
    """Where an exported LLM runs, head scores are gathered and static heads found without it."""
    code = f"import sys; sys.modules['torch'] = None; from connector import {name}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_a_router_without_torch_names_the_extra() -> None:
    code = """
import sys
sys.modules["torch"] = None
from connector import train
from connector.errors import MissingExtraError
try:
    train(["animals"], "x.onnx")
except MissingExtraError as error:
    assert error.extra == "train", error
else:
    raise AssertionError("trained")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_defaults_read_neither_file_nor_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("rerank: {window: 3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RH_RERANK__WINDOW", "4")
    assert Settings().rerank.window == 20
