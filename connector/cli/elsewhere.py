"""``--ray``: a command's offline work on a Ray cluster. Nothing of ray is imported without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from connector.errors import SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.offline.workers import Workers

__all__ = ["ray_options", "workers_of"]

F = TypeVar("F", bound=Callable[..., Any])


def ray_options(command: F) -> F:
    """The command with ``--ray`` and ``--ray-workers``, as ``ray`` and ``ray_workers``."""
    count = click.option(
        "--ray-workers", type=click.IntRange(1), metavar="N", help="With --ray: workers; default: free CPUs less one."
    )
    return click.option("--ray", metavar="ADDRESS", help="The LLM runs on this Ray cluster: auto, or HOST:PORT.")(
        count(command)
    )


@contextmanager
def workers_of(settings: Settings, address: str | None, count: int | None) -> Iterator[Workers | None]:
    """The workers that the two options ask for; None: this process does the work.

    Raises:
        SettingsError: workers without a cluster, or see ``ray_workers``.
        MissingExtraError: ray is not installed.
    """
    if address is None:
        if count is not None:
            raise SettingsError(f"--ray-workers {count} goes with --ray; give --ray auto, or leave it out")
        yield None
        return
    from connector.offline.ray_cluster import ray_workers

    with ray_workers(settings, address, count) as workers:
        yield workers
