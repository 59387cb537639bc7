"""The Dockerfiles: linted, and what they take from the repository and from the program."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY, PORT, ROOT, VARIABLES, tool
from tests.service.conftest import service_settings
from tests.service.live import serving
from tests.service.standin import StandIn

FILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def one(path: Path, name: str) -> str:
    (found,) = [rest for word, rest in instructions(path) if word == name]
    return found


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.gpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint(path: Path) -> None:
    run = subprocess.run([tool("hadolint"), "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            rule = line.partition("=")[2].strip()
            assert lines[number - 1].startswith(f"# {rule} "), "say why a rule is ignored"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_process(path: Path) -> None:
    assert json.loads(one(path, "ENTRYPOINT")) == ["rh-connector"]
    assert json.loads(one(path, "CMD")) == ["serve"]
    assert one(path, "EXPOSE") == str(PORT)
    assert one(path, "USER") == "${UID}:${UID}"
    assert ("ARG", "UID=10001") in instructions(path)
    environment = " ".join(rest for word, rest in instructions(path) if word == "ENV")
    names = re.findall(r"\b(RH_\w+)=", environment)
    assert {"RH_SERVE__HOST", "RH_CACHE__PATH"} <= set(names) <= VARIABLES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("ready", [True, False])
def test_the_health_check_runs(path: Path, ready: bool, tmp_path: Path) -> None:
    options, _, command = one(path, "HEALTHCHECK").partition("CMD ")
    assert {"--interval", "--timeout", "--start-period", "--retries"} == set(re.findall(r"--[\w-]+", options))
    words = json.loads(command)
    assert words[0] == "python"
    with serving(StandIn(), service_settings(api_keys="key")) as (url, _):
        port = url.rpartition(":")[2] if ready else "1"
        run = subprocess.run(
            [sys.executable, *words[1:]], env={"RH_SERVE__PORT": port}, capture_output=True, check=False, cwd=tmp_path
        )
    assert (run.returncode == 0) is ready


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_reaches_the_build(path: Path) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:].rstrip("/") for rule in rules if rule[0] == "!"}
    copied = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY" and "--from" not in rest]
    sources = {source for group in copied for source in group}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)
    # Nothing that is let in holds secrets or a machine's own files.
    assert not any(fnmatch.fnmatch(source, ".env*") for source in sources)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_the_wheel_is_made_of_is_copied(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    copied = " ".join(rest for word, rest in instructions(path) if word == "COPY").split()
    assert needed <= set(copied)
    (extras,) = [rest.partition("=")[2].strip('"') for word, rest in instructions(path) if rest.startswith("EXTRAS=")]
    known = project["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    # onnxruntime-gpu would overwrite files of the onnxruntime that every install brings.
    assert "gpu" not in extras.split(",")
    assert ("torch" in extras.split(",")) == path.name.endswith(".gpu")
