"""A release is checked for what it holds: the real wheel and source archive pass, and each damage is told."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from connector import __version__
from connector.studies.release.distribution import faults, main
from tests.studies.release.conftest import ROOT


@pytest.fixture
def release(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "dist"))


def wheel_of(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def rewritten(folder: Path, left_out: str = "", changed: tuple[str, bytes, bytes] = ("", b"", b"")) -> None:
    """The wheel without a file, or with other bytes in one."""
    path = wheel_of(folder)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != left_out}
    name, old, new = changed
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in files.items():
            archive.writestr(each, content.replace(old, new) if each == name else content)


def test_what_is_built_has_no_faults(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(built, ROOT) == []
    monkeypatch.chdir(ROOT)
    assert main([str(built)]) == 0


def test_the_wheel_holds_what_serves_and_no_studies(built: Path) -> None:
    names = zipfile.ZipFile(wheel_of(built)).namelist()
    assert {"connector/py.typed", "router_export/py.typed", "connector/__init__.py"} <= set(names)
    for kind in ("connector/routing/shipped/*.onnx", "connector/heads/shipped/*.json"):
        shipped = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(kind)}
        assert shipped and shipped <= set(names)
    assert not [name for name in names if name.startswith(("connector/studies/", "tests/", "examples/", "docs/"))]


def test_the_version_stands_in_the_package_only(built: Path) -> None:
    assert wheel_of(built).name.split("-")[1] == __version__


def test_a_file_that_is_missing_is_told(release: Path) -> None:
    rewritten(release, left_out="connector/heads/shipped/smollm2-135m.late.json")
    found = faults(release, ROOT)
    assert len(found) == 1 and found[0].endswith("lacks connector/heads/shipped/smollm2-135m.late.json")


def test_a_file_that_does_not_belong_there_is_told(release: Path) -> None:
    with zipfile.ZipFile(wheel_of(release), "a") as archive:
        archive.writestr("connector/studies/slim.py", "")
    found = faults(release, ROOT)
    assert len(found) == 1 and "holds connector/studies/slim.py" in found[0]


def test_a_file_of_another_state_is_told(release: Path) -> None:
    rewritten(release, changed=("connector/sections.py", b"8080", b"8081"))
    found = faults(release, ROOT)
    assert len(found) == 1 and "connector/sections.py is not what lies in the tree" in found[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"Version: {__version__}".encode(), b"Version: 9.9", "says 9.9"),
        (b"License-Expression: Apache-2.0", b"License-Expression: none of these", "license-expression"),
        (b"Requires-Python: >=3.11\n", b"", "no requires_python"),
    ],
    ids=["version", "licence", "python"],
)
def test_metadata_that_an_index_would_refuse_is_told(release: Path, old: bytes, new: bytes, message: str) -> None:
    rewritten(release, changed=(f"rh_connector-{__version__}.dist-info/METADATA", old, new))
    assert any(message in fault for fault in faults(release, ROOT))


def test_a_folder_of_two_releases_is_none(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(wheel_of(release), release / "rh_connector-9.9-py3-none-any.whl")
    assert main([str(release)]) == 1
    assert "holds 2 wheels and 1 source archives" in capsys.readouterr().err
