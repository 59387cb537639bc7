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
    references = REFERENCE.findall(path.read_text())
    assert known and references
    for name, kind, _ in references:
        assert kind == "-" or name in known, name
        # .env may be read into a shell, where rh-connector would refuse an RH_ that is no setting.
        assert not name.startswith("RH_")


def test_the_example_holds_no_secret() -> None:
    lines = re.findall(r"^(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    secrets = {name: value for name, value in lines if "PASSWORD" in name or "KEY" in name}
    assert secrets and not any(secrets.values())


@each_file
def test_secrets_come_from_the_environment_and_must_be_there(path: Path) -> None:
    environments = [service.get("environment", {}) for service in services(path).values()]
    pairs = [pair for environment in environments for pair in environment.items()]
    secrets = {name: value for name, value in pairs if name in SECRETS or re.search("PASSWORD|KEY", name)}
    assert secrets
    for name, value in secrets.items():
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
    found = [pair for service in services(path).values() for pair in service.get("depends_on", {}).items()]
    assert found
    for name, dependency in found:
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
    ports = [port for service in services(path).values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@each_file
def test_memory_is_limited_and_the_heap_is_half_of_it(path: Path) -> None:
    heaps = []
    for service in services(path).values():
        assert re.fullmatch(r"\d+g", service["mem_limit"])
        options = [value for name, value in service.get("environment", {}).items() if name.endswith("JAVA_OPTS")]
        heaps += [(value, service["mem_limit"]) for value in options]
    assert heaps and set(heaps) == {("-Xms1g -Xmx1g", "2g")}


@each_file
def test_images_are_pinned(path: Path) -> None:
    for service in services(path).values():
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", service["image"])
