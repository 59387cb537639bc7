"""Which model of the catalogue something is: by name, by hub id, by digest; and models that come from the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from connector.checkpoints import identifying
from connector.checkpoints.catalogue import CatalogueEntry
from connector.checkpoints.identifying import known_as
from connector.checkpoints.model_facts import describe
from connector.checkpoints.pulling import find_damage, find_local, obtain
from connector.errors import BackboneError
from tests.checkpoints.tiny_gguf import entry_of


@pytest.fixture
def entry(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A model whose source is the hub."""
    entry = entry_of(gguf)
    monkeypatch.setattr(identifying, "CATALOGUE", {"tiny": entry})
    return entry


def test_names_and_ids(entry: CatalogueEntry, tmp_path: Path) -> None:
    assert known_as("tiny", tmp_path) == known_as("tiny/Tiny", tmp_path) == known_as("TINY/tiny", tmp_path) == "tiny"
    assert known_as("other/Tiny", tmp_path) == "other/Tiny"


def test_files_and_folders_by_their_digest(entry: CatalogueEntry, gguf: Path, tmp_path: Path) -> None:
    assert known_as(str(gguf), tmp_path) == "tiny"
    made = obtain(str(gguf), cache=tmp_path)
    assert known_as(str(made.path), tmp_path) == "tiny"
    assert describe(made)["hub"] == "tiny/Tiny" and describe(made)["licence"] == "Tiny Terms"
    # Without what was written at the conversion it is another folder, as somebody else might have saved it.
    folder = shutil.copytree(made.path, tmp_path / "saved", ignore=shutil.ignore_patterns("manifest.json"))
    assert known_as(str(folder), tmp_path) == str(folder)


def test_what_cannot_be_read_keeps_its_name(entry: CatalogueEntry, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"no weights")
    for model in (str(tmp_path / "no.gguf"), str(tmp_path / "folder"), str(tmp_path / "none")):
        assert known_as(model, tmp_path) == model


def test_a_model_of_the_hub_is_taken_from_a_file_of_it_that_was_pulled(
    entry: CatalogueEntry, gguf: Path, tmp_path: Path
) -> None:
    catalogue = {"tiny": entry}
    assert find_local("tiny", cache=tmp_path, catalogue=catalogue) is None
    pulled = obtain(str(gguf), cache=tmp_path)
    found = obtain("tiny", cache=tmp_path, offline=True, verify=True, catalogue=catalogue)
    assert (found.name, found.path, found.digest()) == ("tiny", pulled.path, pulled.digest())
    assert find_damage("tiny", cache=tmp_path, catalogue=catalogue) is None


def test_the_hub_s_own_weights_come_first(entry: CatalogueEntry, gguf: Path, tmp_path: Path) -> None:
    pulled = obtain(str(gguf), cache=tmp_path)
    snapshot = shutil.copytree(pulled.path, tmp_path / "snapshot", ignore=shutil.ignore_patterns("manifest.json"))
    note = tmp_path / "models" / "hub" / "tiny--Tiny.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"path": str(snapshot)}))
    found = obtain("tiny", cache=tmp_path, offline=True, catalogue={"tiny": entry})
    assert (found.name, found.path) == ("tiny", snapshot)
    assert describe(found)["source"] == "hub"


def test_offline_and_not_here_the_id_and_the_ways_out_are_told(entry: CatalogueEntry, tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as refused:
        obtain("tiny", cache=tmp_path, offline=True, catalogue={"tiny": entry})
    told = str(refused.value)
    assert "tiny/Tiny" in told and "\n" not in told
    assert "name a folder or GGUF file that holds the model (backbone.model)" in told
