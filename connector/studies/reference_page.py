"""``docs/reference.md``, made from the commands' own help and the settings table.

Run as ``python -m connector.studies.reference_page > docs/reference.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from connector.cli import cli
from connector.settings import settings_table

__all__ = ["reference"]

_WIDTH = 100


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([*_commands(), *_completion(), *_settings()]) + "\n"


def _commands() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the program itself (`make docs`); a test fails when it is out of date."
    yield ""
    yield "## Commands"
    yield ""
    yield "The options of `rh-connector` itself stand before a command's name or behind it, as in"
    yield "`rh-connector search cats --json`. Of two that differ, the one behind counts. A shell"
    yield "[completes](#shell-completion) commands, options and settings."
    yield ""
    yield "Exit codes: 0 done, 2 usage or settings, 3 search engine, 4 model or head set, 5 data."
    # As a real call makes it: click remembers a command's help option from the first context that asked for it.
    context = click.Context(
        cli, info_name="rh-connector", max_content_width=_WIDTH, terminal_width=_WIDTH, **cli.context_settings
    )
    yield from _help(cli, context)


def _help(command: click.Command, context: click.Context) -> Iterator[str]:
    yield ""
    yield f"### {context.command_path}"
    yield ""
    yield "```text"
    yield command.get_help(context).rstrip()
    yield "```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            child = click.Context(
                inner, parent=context, info_name=name, max_content_width=_WIDTH, terminal_width=_WIDTH
            )
            yield from _help(inner, child)


def _completion() -> Iterator[str]:
    yield ""
    yield "## Shell completion"
    yield ""
    yield "The line for your shell, at the end of the file:"
    yield ""
    yield "| shell | file | line |"
    yield "|---|---|---|"
    for shell, file in (("bash", "~/.bashrc"), ("zsh", "~/.zshrc")):
        yield f'| {shell} | `{file}` | `eval "$(_RH_CONNECTOR_COMPLETE={shell}_source rh-connector)"` |'
    file = "~/.config/fish/completions/rh-connector.fish"
    yield f"| fish | `{file}` | `_RH_CONNECTOR_COMPLETE=fish_source rh-connector \\| source` |"
    yield ""
    yield "Open a new shell, type `rh-connector sea` and press Tab. Keys of settings are completed behind `--set`."
    yield "bash must be 4.4 or newer: macOS comes with an older one."


def _settings() -> Iterator[str]:
    yield ""
    yield "## Settings"
    yield ""
    yield "In `config.yaml`, in the environment (`RH_RERANK__WINDOW=50`), or as an option (`--set rerank.window=50`)."
    yield ""
    yield "| setting | default | what it does |"
    yield "|---|---|---|"
    for setting in settings_table():
        default = "~/.cache/rh-connector" if setting.key == "cache.path" else setting.default
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        if default == ():
            shown = "[]"
        secret = " (secret)" if setting.secret else ""
        yield f"| `{setting.key}` | `{shown}` | {setting.help.replace('|', chr(92) + '|')}{secret} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
