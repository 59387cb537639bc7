"""The command that adds what is missing, for every way of installing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from connector.errors import MissingExtraError
from connector.installation import IMAGE_RECORD, Installation, extra_of, find_installation, this_installation

PYTHON = "/env/bin/python"
_WHEEL = 'path = "/wheels/rh_connector-0.1.0-py3-none-any.whl"'
_RECEIPT = "[tool]\nrequirements = [{{ name = 'rh-connector', {more} }}, {{ name = 'onnx' }}]\n"


def found(prefix: Path, *, checkout: bool = False, has_pip: bool = True) -> Installation:
    root = prefix / "root"
    root.mkdir(exist_ok=True)
    if checkout:
        (root / "pyproject.toml").write_text("")
    return find_installation(prefix, root, PYTHON, has_pip)


def test_a_checkout_is_installed_again_with_the_extra(tmp_path: Path) -> None:
    here = found(tmp_path, checkout=True)
    assert here.adding("train", "cpu") == f"{PYTHON} -m pip install -e '{tmp_path / 'root'}[train]'"
    bare = found(tmp_path, checkout=True, has_pip=False)
    assert bare.adding("train") == f"uv pip install --python {PYTHON} -e '{tmp_path / 'root'}[train]'"


def test_a_wheel_goes_through_its_own_interpreter(tmp_path: Path) -> None:
    assert found(tmp_path).adding("aws") == f"{PYTHON} -m pip install 'rh-connector[aws]'"
    bare = found(tmp_path, has_pip=False)
    assert bare.adding("aws") == f"uv pip install --python {PYTHON} 'rh-connector[aws]'"
    assert "'a b'" in Installation("pip", "a b").adding("aws")


@pytest.mark.parametrize(
    ("more", "command"),
    [
        ("", "'rh-connector[aws]'"),
        ("extras = ['cpu']", "'rh-connector[cpu,aws]'"),
        (_WHEEL, "'rh-connector[aws] @ file:///wheels/rh_connector-0.1.0-py3-none-any.whl'"),
    ],
)
def test_a_tool_of_uv_keeps_the_extras_that_it_has(tmp_path: Path, more: str, command: str) -> None:
    receipt = tmp_path / "uv-receipt.toml"
    receipt.write_text(_RECEIPT.format(more=more).replace(", }", " }"))
    assert found(tmp_path, has_pip=False).adding("aws") == f"uv tool install {command}"
    receipt.write_text("nonsense")
    assert found(tmp_path, has_pip=False).adding("aws") == "uv tool install 'rh-connector[aws]'"


def test_pipx_runs_its_own_pip(tmp_path: Path) -> None:
    (tmp_path / "pipx_metadata.json").write_text("{}")
    assert found(tmp_path, has_pip=False).adding("aws") == "pipx runpip rh-connector install 'rh-connector[aws]'"


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_is_built_with_one_more_extra(tmp_path: Path, repository: Path, name: str) -> None:
    """The record is written by the Dockerfile's own command."""
    dockerfile = repository / "deploy" / "docker" / name
    (written,) = re.findall(rf"&& (printf .*) > /opt/venv/{IMAGE_RECORD}\n", dockerfile.read_text())
    run = subprocess.run(["sh", "-c", written], env={"EXTRAS": "cpu,serve"}, capture_output=True, check=True)
    (tmp_path / IMAGE_RECORD).write_bytes(run.stdout)
    here = found(tmp_path, has_pip=True)
    assert here.adding("train") == (
        f"docker build -f deploy/docker/{name} --build-arg EXTRAS=cpu,serve,train -t rh-connector . "
        "(in the repository)"
    )
    assert "ARG EXTRAS=" in dockerfile.read_text()
    assert "RUN pip install 'elasticsearch>=8,<9'" in here.changing("elasticsearch>=8,<9")
    assert "Dockerfile.gpu --build-arg EXTRAS=cpu,serve,torch " in here.exchanging_onnx_runtime()


def test_an_image_without_extras(tmp_path: Path) -> None:
    (tmp_path / IMAGE_RECORD).write_text("deploy/docker/Dockerfile\n\n")
    here = found(tmp_path)
    assert here.has == () and "EXTRAS=aws " in here.adding("aws")


def test_one_onnx_runtime_is_removed_before_the_other_comes() -> None:
    pip = f"{PYTHON} -m pip"
    assert Installation("pip", PYTHON).exchanging_onnx_runtime() == (
        f"{pip} install 'rh-connector[gpu]' && {pip} uninstall -y onnxruntime && "
        f"{pip} install --force-reinstall --no-deps 'onnxruntime-gpu'"
    )
    told = Installation("uv", PYTHON).exchanging_onnx_runtime()
    assert f" && uv pip uninstall --python {PYTHON} onnxruntime && " in told
    assert told.endswith(f"uv pip install --python {PYTHON} --reinstall --no-deps 'onnxruntime-gpu'")


def test_what_comes_with_the_program_needs_no_extra(tmp_path: Path) -> None:
    assert found(tmp_path).adding("serve") == f"{PYTHON} -m pip install 'rh-connector'"
    assert found(tmp_path, checkout=True).adding("cpu") == f"{PYTHON} -m pip install -e '{tmp_path / 'root'}'"


@pytest.mark.slow
def test_the_command_for_this_copy_works(repository: Path) -> None:
    """All extras of the development install are here: pip has nothing to fetch, and says what it would do."""
    command = this_installation().adding("opensearch", "serve")
    assert f"-e '{repository}[opensearch]" in command
    # An editable build needs a package that only a build with a network fetches.
    command = command.replace("-e ", "")
    # pip reads the last one as the value of build isolation.
    without = {"PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    run = subprocess.run(["sh", "-c", command], env={**os.environ, **without}, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_extra_names_its_packages(repository: Path) -> None:
    """What the messages tell for a module is an extra that brings it, as pyproject.toml says."""
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    of_package = {
        module: {distribution.lower().replace("_", "-") for distribution in distributions}
        for module, distributions in importlib.metadata.packages_distributions().items()
    }
    told = [extra for extra in extras if extra not in ("all", "dev", "clients", "gpu", "bench")]
    for extra in told:
        own = [Requirement(line) for line in extras[extra] if not line.startswith("rh-connector")]
        for requirement in own:
            modules = [name for name, brought in of_package.items() if requirement.name.lower() in brought]
            named = {extra_of(module) for module in modules if not module.startswith("_")} - {None}
            brings = {name for name in told if any(requirement.name in line for line in extras[name])}
            assert named & brings, f"{requirement.name} of {extra}: the messages tell {named or 'nothing'}"
    assert extra_of("numpy") is None and extra_of("connector.heads") is None
    assert extra_of("torch.nn") == "torch"


def test_the_error_names_package_and_command() -> None:
    error = MissingExtraError("faiss", "vectors")
    assert str(error) == f"faiss is not installed; install it with: {this_installation().adding('vectors')}"
    assert sys.executable in str(error)
