"""The SBOM of a release: all that is installed with it, and nothing of this machine; a wrong environment is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packaging.utils import canonicalize_name

from connector import __version__
from connector.studies.release.bill_of_materials import bill_of_materials, main
from tests.studies.release.conftest import ROOT
from tests.studies.release.environments import closure, environment_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment as ``make dist`` makes it."""
    return environment_of(tmp_path_factory.mktemp("release") / "clean", wheel, closure())


@pytest.fixture(scope="module")
def told(python: Path) -> str:
    return bill_of_materials(python)


def test_a_release_and_all_that_is_installed_with_it(told: str) -> None:
    bill = json.loads(told)
    # The schema of CycloneDX itself.
    assert make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(told) is None
    found = {canonicalize_name(one["name"]): one["version"] for one in bill["components"]}
    assert found == {name: each.version for name, each in closure().items()}
    assert {"onnxruntime", "tantivy", "fastapi"} <= set(found) and "torch" not in found
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"], root["type"]) == ("rh-connector", __version__, "application")
    (edges,) = [one for one in bill["dependencies"] if one["ref"] == root["bom-ref"]]
    assert any(ref.startswith("onnxruntime==") for ref in edges["dependsOn"])


def test_it_names_the_wheel_by_its_digest_and_no_place(told: str, python: Path, wheel: Path) -> None:
    digest = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True).stdout.split()[0]
    assert json.loads(told)["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert "file:" not in told and str(wheel.parent) not in told and str(python.parents[1]) not in told


def test_what_is_missing_is_told(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    brought = {name: each for name, each in closure().items() if name not in ("onnxruntime", "tantivy")}
    python = environment_of(tmp_path / "lacks", wheel, brought)
    assert main([str(python), str(tmp_path / "bill.json")]) == 1
    assert "lacks what rh-connector requires: onnxruntime, tantivy" in capsys.readouterr().err
    assert not (tmp_path / "bill.json").exists()


def test_an_environment_without_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    assert main([str(tmp_path / "empty" / "bin" / "python"), str(tmp_path / "bill.json")]) == 1
    assert "holds no rh-connector" in capsys.readouterr().err


def test_the_recipe_writes_the_same_bytes(told: str, python: Path, tmp_path: Path) -> None:
    given = [f"BIN={Path(sys.executable).parent}", f"CLEAN={python.parents[1]}", f"SBOM={tmp_path / 'bill.json'}"]
    # The environment of the tests is not made anew.
    command = ["make", "-o", ".venv/.installed", "sbom", *given]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "bill.json").read_text() == told


def test_the_recipe_asks_for_a_release_first(tmp_path: Path) -> None:
    for target in ("sbom", "audit"):
        command = ["make", "-o", ".venv/.installed", target, f"CLEAN={tmp_path}", f"BIN={tmp_path}"]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode and "make it with: make dist" in made.stderr
