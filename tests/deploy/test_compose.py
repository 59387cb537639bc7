"""The compose files: valid, without secrets, and consistent in themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from connector.settings import load_settings
from tests.deploy.conftest import DEPLOY, PORT, SECRETS, VARIABLES, documents, tool

FOLDER = DEPLOY / "compose"
FILES = sorted(FOLDER.glob("*.yml"))
REFERENCE = re.compile(r"(?<!\$)\$\{(\w+)(?::?([?-])([^}]*))?\}")

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def services(path: Path) -> dict[str, Any]:
    (document,) = documents(path)
    found: dict[str, Any] = document["services"]
    return found


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["elasticsearch.yml", "opensearch.yml"]


def test_the_schema_of_compose() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *map(str, FILES)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@each_file
def test_every_variable_is_in_the_example_or_has_a_default(path: Path) -> None:
    example = (FOLDER / ".env.example").read_text()
    known = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    for name, kind, _ in REFERENCE.findall(path.read_text()):
        assert kind == "-" or name in known, name
        # .env may be read into a shell, where rh-connector would refuse an RH_ that is no setting.
        assert not name.startswith("RH_")


def test_the_example_holds_no_secret() -> None:
    for name, value in re.findall(r"^(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE):
        assert value == "" or "PASSWORD" not in name and "KEY" not in name


@each_file
def test_secrets_come_from_the_environment_and_must_be_there(path: Path) -> None:
    for service in services(path).values():
        for name, value in service.get("environment", {}).items():
            if name in SECRETS or re.search("PASSWORD|KEY", name):
                found = REFERENCE.fullmatch(value)
                assert found is not None and found.group(2) == "?", name


@each_file
def test_rh_connector_s_settings_are_accepted(path: Path) -> None:
    for name in ("rh-connector", "pipeline"):
        environment = {
            key: REFERENCE.sub(lambda found: found.group(3) if found.group(2) == "-" else "secret", value)
            for key, value in services(path)[name]["environment"].items()
        }
        assert set(environment) <= VARIABLES
        settings = load_settings("/dev/null", environment=environment)
        assert settings.engine.kind == path.stem
        assert settings.engine.fields == ()
        host, _, port = (settings.writeback.service_url or "").removeprefix("http://").partition(":")
        assert (host in services(path), port) == (True, str(PORT))
        assert (settings.engine.url or "").rpartition("//")[2] == f"{path.stem}:9200"


@each_file
def test_dependencies_are_services_whose_health_is_checked(path: Path) -> None:
    for service in services(path).values():
        for name, dependency in service.get("depends_on", {}).items():
            assert dependency == {"condition": "service_healthy"}
            assert "healthcheck" in services(path)[name]


@each_file
def test_health_checks_ask_rh_connector_for_what_it_answers(path: Path, routes: set[str]) -> None:
    code = services(path)["rh-connector"]["healthcheck"]["test"][-1]
    compile(code, "healthcheck", "exec")
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", code)
    assert found is not None
    assert (found.group(1), found.group(2) in routes) == (str(PORT), True)


@each_file
def test_ports_are_open_to_this_machine_alone(path: Path) -> None:
    for service in services(path).values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_file
def test_memory_is_limited_and_the_heap_is_half_of_it(path: Path) -> None:
    for service in services(path).values():
        assert re.fullmatch(r"\d+g", service["mem_limit"])
        for name, value in service.get("environment", {}).items():
            if name.endswith("JAVA_OPTS"):
                assert value == "-Xms1g -Xmx1g" and service["mem_limit"] == "2g"


@each_file
def test_images_are_pinned(path: Path) -> None:
    for service in services(path).values():
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", service["image"])
