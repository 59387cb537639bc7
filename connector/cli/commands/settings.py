"""``rh-connector settings``: the settings table with what is in force."""

from __future__ import annotations

import sys
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.credentials import redacted
from connector.settings import settings_table

_PIPED = 400


@click.command("settings")
@pass_context
def command(context: Context) -> None:
    """Show every setting: its value now, its default, what it does. Secrets are never printed."""
    settings = context.settings()
    rows: list[dict[str, Any]] = []
    for setting in settings_table():
        section, name = setting.key.split(".")
        value = getattr(getattr(settings, section), name)
        if setting.secret and value:
            value = "**********"
        elif isinstance(value, tuple):
            value = [str(item) for item in value if not isinstance(item, SecretStr)]
        elif value is not None and not isinstance(value, bool | int | float):
            value = redacted(str(value))
        rows.append({"key": setting.key, "value": value, "default": setting.default, "help": setting.help})
    if context.as_json:
        context.print_json(rows)
        return
    table = Table(box=None, header_style="bold")
    # Whole names and values: they are looked for, and copied.
    table.add_column("setting", no_wrap=True)
    for title in ("value", "default", "what it does"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(row["key"], _show(row["value"]), _show(row["default"]), row["help"])
    # What is piped is searched line by line.
    Console(width=None if sys.stdout.isatty() else _PIPED).print(table)


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
