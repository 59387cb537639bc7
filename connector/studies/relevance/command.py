"""What the commands of this folder share: their options, and the report with all figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from connector.evaluation.provenance import installed_versions, processor_name, today

__all__ = ["study_options", "write_report"]

F = TypeVar("F", bound=Callable[..., Any])


def study_options(queries: int) -> Callable[[F], F]:
    """FOLDERS of judged collections, ``--queries``, ``--tokens``, ``--set`` and ``--out``.

    Args:
        queries: the default of ``--queries``.
    """
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    options = (
        click.argument("folders", nargs=-1, required=True, type=folder),
        click.option("--queries", default=queries, show_default=True, help="Most of a collection."),
        click.option("--tokens", default=128, show_default=True, help="Of a document, or a passage of it."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings."),
        click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON with all figures."),
    )

    def given(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return given


def write_report(
    out: Path | None,
    rows: Mapping[str, Any],
    queries: int,
    folders: Sequence[Path],
    tokens: int,
    assignments: Sequence[str],
) -> None:
    """Write the figures with what they were made of; nothing without ``out``.

    Args:
        out: the file.
        rows: figures by name.
        queries: how many were read.
        folders, tokens, assignments: see ``study_options``.
    """
    if out is None:
        return
    told = {
        "queries": queries,
        "collections": [folder.name for folder in folders],
        "tokens": tokens,
        "settings": assignments,
        "processor": processor_name(),
        "date": today(),
        "versions": installed_versions(),
        "rows": rows,
    }
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
