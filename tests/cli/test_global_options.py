"""The global options before a command and behind it, and what a shell completes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from connector.cli import cli
from connector.cli.global_options import CLIENT_LOGS


def settings(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return {row["key"]: row["value"] for row in json.loads(done.stdout)}


@pytest.fixture
def log_levels() -> Iterator[None]:
    names = ("", *CLIENT_LOGS)
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_options_are_taken_before_the_command_and_behind_it(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("rerank: {window: 5}\nengine: {index: mine}\n")
    given = ["--config", str(config), "--set", "rerank.window=7", "--json"]
    before, behind = settings(*given, "settings"), settings("settings", *given)
    assert before == behind
    assert (behind["rerank.window"], behind["engine.index"]) == (7, "mine")


def test_what_stands_behind_counts_where_both_are_given(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("engine: {index: one}\n")
    other.write_text("engine: {index: other}\n")
    before = ["--config", str(one), "--set", "rerank.window=7", "--set", "rerank.deadline_ms=900"]
    found = settings(*before, "settings", "--config", str(other), "--set", "rerank.window=8", "--json")
    assert found["rerank.window"] == 8 and found["rerank.deadline_ms"] == 900 and found["engine.index"] == "other"


def test_behind_a_command_of_a_command_and_between_them() -> None:
    for arguments in (["model", "list", "--json"], ["model", "--json", "list"], ["--json", "model", "list"]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0 and json.loads(done.stdout)


def test_a_wrong_setting_behind_the_command_is_told_as_before_it() -> None:
    before = CliRunner().invoke(cli, ["--set", "a=b", "search", "cats"])
    behind = CliRunner().invoke(cli, ["search", "cats", "--set", "a=b"])
    assert str(before.exception) == str(behind.exception) and "option a is not a setting" in str(behind.exception)


@pytest.mark.parametrize("line", [["--offline", "settings", "--json"], ["settings", "--json", "--offline"]])
def test_offline_is_a_setting_on_either_side(line: list[str]) -> None:
    assert settings("--config", os.devnull, *line)["backbone.offline"] is True


def test_behind_two_dashes_it_is_the_query(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"_id": "1", "text": "json more"}\n')
    before = ["--config", os.devnull, "--set", f"cache.path={tmp_path}"]
    assert CliRunner().invoke(cli, [*before, "index", str(file)]).exit_code == 0
    done = CliRunner().invoke(cli, [*before, "search", "--no-rerank", "--", "--json", "more"])
    assert done.exit_code == 0 and "json more" in done.stdout and not done.stdout.startswith("{")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["serch", "cats"], "No such command 'serch'. Did you mean 'search'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["search", "-foo"], "No such option '-f'. A query that starts with a dash goes after --."),
        (["search", "--indx", "a", "cats"], "Did you mean one of: '--index'"),
    ],
)
def test_what_is_misspelt_is_told_with_what_was_meant(line: list[str], told: str) -> None:
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 2 and told in " ".join(done.output.split())


def test_debug_behind_the_command_logs_every_step(log_levels: None) -> None:
    assert CliRunner().invoke(cli, ["settings", "--json"]).exit_code == 0
    assert {logging.getLogger(name).level for name in CLIENT_LOGS} == {logging.ERROR}
    assert CliRunner().invoke(cli, ["settings", "--json", "--debug"]).exit_code == 0
    assert {logging.getLogger(name).level for name in ("", *CLIENT_LOGS)} == {logging.DEBUG}


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, click.Context(inner, parent=context, info_name=name))


def test_every_command_takes_them_and_none_has_another_of_that_name() -> None:
    context = click.Context(cli, info_name="rh-connector", **cli.context_settings)
    for path, command in commands(cli, context):
        options = [option for parameter in command.params for option in parameter.opts]
        for name in ("--config", "--set", "--offline", "--json", "--debug"):
            assert options.count(name) == 1, (path, name)


COMPLETED = [
    ("rh-connector se", {"search", "serve", "settings"}),
    ("rh-connector model pu", {"pull"}),
    ("rh-connector --s", {"--set"}),
    ("rh-connector search --js", {"--json"}),
    ("rh-connector search --mode s", {"static"}),
    ("rh-connector search --set rerank.w", {"rerank.window="}),
    ("rh-connector --set rerank.w", {"rerank.window="}),
]


@pytest.mark.parametrize(("line", "wanted"), COMPLETED, ids=[line for line, _ in COMPLETED])
def test_a_shell_completes(line: str, wanted: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = line.split()
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(
        cli, [], prog_name="rh-connector", env={"_RH_CONNECTOR_COMPLETE": "bash_complete", **environment}
    )
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert wanted <= found and all(word.startswith(words[-1]) for word in found)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_docs_gives_the_shell_its_script(shell: str, repository: Path) -> None:
    page = (repository / "docs/reference.md").read_text()
    (variable,) = re.findall(rf"(_RH_CONNECTOR_COMPLETE={shell}_source) rh-connector", page)
    name, _, value = variable.partition("=")
    program = [sys.executable, "-c", "from connector.cli import main; main()"]
    done = subprocess.run(program, env={**os.environ, name: value}, capture_output=True, text=True, check=True)
    # The script asks the program again, at each key.
    assert f"{name}={shell}_complete" in done.stdout and "rh-connector" in done.stdout
