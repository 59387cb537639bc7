"""The options of every command. They are taken before its name, and behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
from click.shell_completion import CompletionItem

from connector.cli.context import Context

__all__ = ["CLIENT_LOGS", "OFFLINE", "global_options", "log_every_step", "with_global_options"]

CLIENT_LOGS = ("opensearch", "elasticsearch", "elastic_transport")
"""Loggers of the clusters' clients."""

OFFLINE = "backbone.offline=true"
"""The setting that ``--offline`` stands for."""

_EPILOG = "Options of every command: --config, --set, --offline, --json, --debug; see rh-connector --help."


class _Unlisted(click.Option):
    """An option that is taken and completed, and not told again in the help of each command."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return None


class _Setting(click.ParamType[str]):
    """``KEY=VALUE``; a shell completes the key."""

    name = "setting"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from connector.settings import settings_table

        keys = [(f"{row.key}=", row.help) for row in settings_table()]
        return [CompletionItem(key, help=told) for key, told in keys if key.startswith(incomplete)]


def global_options(kind: type[click.Option] = click.Option, **more: Any) -> list[click.Parameter]:
    """``--config``, ``--set``, ``--offline``, ``--json`` and ``--debug``.

    Args:
        kind: of option.
        more: for each of them.
    """
    told = "Settings file; default: config.yaml here, if there is one."
    return [
        kind(["--config"], metavar="FILE", type=click.Path(), help=told, **more),
        kind(
            ["--set", "assignments"],
            metavar="KEY=VALUE",
            type=_Setting(),
            multiple=True,
            help="One setting, as in rerank.window=50.",
            **more,
        ),
        kind(["--offline"], is_flag=True, help="Use what is here; never touch the network.", **more),
        kind(["--json", "as_json"], is_flag=True, help="Print JSON on standard output.", **more),
        kind(["--debug"], is_flag=True, help="Show tracebacks and log every step.", **more),
    ]


def with_global_options(command: click.Command) -> click.Command:
    """The command, and all commands in it, with the global options behind their names; once."""
    if not any(isinstance(parameter, _Unlisted) for parameter in command.params):
        command.params += global_options(_Unlisted, expose_value=False, callback=_add)
        command.epilog = _EPILOG
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_global_options(inner)
    return command


def log_every_step() -> None:
    """What ``--debug`` asks for."""
    for name in ("", *CLIENT_LOGS):
        logging.getLogger(name).setLevel(logging.DEBUG)


def _add(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    """What stands behind a command's name comes on top of what stands before it."""
    given = ctx.obj
    # A shell that completes a line runs nothing, and gives no context.
    if not value or not isinstance(given, Context):
        return
    changes: dict[str, Callable[[], Context]] = {
        "config": lambda: replace(given, config=value),
        "assignments": lambda: replace(given, assignments=(*given.assignments, *value)),
        "offline": lambda: replace(given, assignments=(*given.assignments, OFFLINE)),
        "as_json": lambda: replace(given, as_json=True),
        "debug": lambda: replace(given, debug=True),
    }
    ctx.obj = changes[str(option.name)]()
    if option.name == "debug":
        log_every_step()
