"""The docs say what the program does: generated pages are current, commands exist, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from starlette.testclient import TestClient

from connector.cli import cli
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.service.app import create_app
from connector.studies.reference_page import reference
from tests.service.waiting import wait_until

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "deploy/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))),
]


def test_the_reference_is_current(repository: Path) -> None:
    assert (repository / "docs/reference.md").read_text() == reference(), "run: make docs"


@pytest.mark.parametrize("page", PAGES)
def test_extras_that_are_named_bring_something(repository: Path, page: str) -> None:
    known = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"pip install '?rh-connector\[([\w,]+)\]", (repository / page).read_text()):
        assert all(known.get(name) for name in extras.split(",")), f"{page}: rh-connector[{extras}]"


def test_the_gateway_is_not_said_to_lend_its_credentials(repository: Path) -> None:
    """tests/service/gateway/test_credentials.py shows that it adds none."""
    keys = (repository / "deploy/README.md").read_text().partition("**Keys.**")[2].partition("\n- ")[0]
    assert "own credentials" not in keys and "never adds" in keys


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(repository: Path, page: str) -> None:
    path = repository / page
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_anchors_are_headings(repository: Path, page: str) -> None:
    path = repository / page
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", path.read_text()):
        if "://" not in target:
            headings = re.findall(r"^#+ (.+)$", (path.parent / target if target else path).read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in known, f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_docs_exist_with_their_options(repository: Path, page: str) -> None:
    for line in re.findall(r"(?<!/)rh-connector [a-z-][^\n`|]*", (repository / page).read_text()):
        # A command that goes on in the next line.
        line = line.rstrip("\\ ")
        words = shlex.split(line.split("#")[0].replace("'", "")) if line.count('"') % 2 == 0 else line.split()
        _check(words[1:], line)


def _check(words: list[str], line: str) -> None:
    context = click.Context(cli, info_name="rh-connector", **cli.context_settings)
    command: click.Command = cli
    for word in words:
        if word.startswith("--"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
            everywhere = {option for parameter in cli.params for option in parameter.opts}
            assert word.split("=")[0].rstrip(".,;:)") in known | everywhere, f"{line}: {word}"
        elif isinstance(command, click.Group) and command.get_command(context, word.rstrip(".,;:)")) is not None:
            found = command.get_command(context, word.rstrip(".,;:)"))
            assert found is not None
            command = found


def test_every_command_and_option_has_help() -> None:
    context = click.Context(cli, info_name="rh-connector", **cli.context_settings)

    def check(command: click.Command) -> None:
        assert command.help, command.name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help or parameter.name in ("criterion", "mode", "timed"), (
                    f"{command.name} {parameter.opts}"
                )
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                check(inner)

    check(cli)


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(
    repository: Path, reranker: Reranker, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert example is not None
    exec(compile(example.group(1), "README.md", "exec"), {})
    assert capsys.readouterr().out == "[1, 0] True\n"


def test_the_curl_example_of_the_readme_is_answered(repository: Path, reranker: Reranker, settings: Settings) -> None:
    body = re.search(r"/v1/rerank .* -d '(\{.*?\})'", (repository / "README.md").read_text(), re.DOTALL)
    assert body is not None
    app = create_app(reranker, settings)
    with TestClient(app) as client:
        wait_until(lambda: app.state.loading.status == "ready")
        answer = client.post("/v1/rerank", json=json.loads(body.group(1)))
    assert answer.status_code == 200
    assert [result["index"] for result in answer.json()["results"]] == [1, 0, 2]


def test_the_readme_s_first_screen_has_the_two_commands(repository: Path) -> None:
    first_screen = (repository / "README.md").read_text().splitlines()[:20]
    for target in ("make demo", "make test"):
        assert any(line.startswith(target) for line in first_screen)
        assert re.search(rf"^{target.split()[1]}:", (repository / "Makefile").read_text(), re.MULTILINE)
