"""What every command shares: where the settings come from and how to print."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import click

from connector.cli.models import Models
from connector.errors import SettingsError
from connector.sections import Settings
from connector.settings import load_settings

__all__ = ["Context", "pass_context"]


@dataclass(frozen=True)
class Context:
    """The global options of one call, and the models that it uses."""

    config: str | None = None
    assignments: tuple[str, ...] = ()
    as_json: bool = False
    debug: bool = False
    models: Models = field(default_factory=Models)

    def settings(self, **options: Any) -> Settings:
        """The settings, with a command's own options on top.

        Args:
            options: setting name with ``__`` between levels -> value; None is left out.

        Raises:
            SettingsError: see ``load_settings``.
        """
        merged: dict[str, Any] = {}
        for assignment in self.assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise SettingsError("--set without = : give KEY=VALUE, as in rerank.window=50")
            merged[key.strip()] = value
        for name, value in options.items():
            if value is not None:
                merged[name.replace("__", ".")] = value
        return load_settings(self.config, merged)

    def print_json(self, value: Any) -> None:
        """One JSON document on one line of standard output."""
        click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


pass_context = click.make_pass_decorator(Context)
