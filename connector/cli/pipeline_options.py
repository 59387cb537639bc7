"""Which search pipeline a command is about: its options, and what is installed where they say nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from connector.errors import SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.writeback.opensearch import OpenSearchPipeline
    from connector.writeback.search_pipeline import PipelinePlan

__all__ = ["Chosen", "Route", "opened", "opened_for_removal", "pipeline_options"]

Route = Literal["rerank", "scores"]


class Chosen(NamedTuple):
    """The options of one command line; None: as installed, else the default.

    Attributes: those of ``PipelinePlan``.
    """

    route: Route | None = None
    query_path: str | None = None
    oversample: int | None = None
    hybrid: bool | None = None
    into: str | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{name.replace('_', '-')}" for name, value in self._asdict().items() if value is not None]


_OPTIONS = (
    click.option(
        "--route",
        type=click.Choice(["rerank", "scores"]),
        help="OpenSearch: one rerank processor; or scores, which keeps the first-stage score in the hit. Without "
        "it as installed, else rerank.",
    ),
    click.option(
        "--query-path", metavar="PATH", help="Route scores: where the query text is, as in query.match.text.query."
    ),
    click.option(
        "--oversample",
        type=click.IntRange(1, 100),
        help="Rerank so many times the page (OpenSearch 2.12+). Without it as installed, else 1.",
    ),
    click.option(
        "--hybrid/--no-hybrid",
        default=None,
        help="Hybrid queries are normalized by the same pipeline, then reranked. Without it as installed.",
    ),
    click.option(
        "--into", metavar="NAME", help="Add to this search pipeline, which is there, behind its own processors."
    ),
)


def pipeline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options, as one argument ``chosen``."""

    @wraps(command)
    def collected(*args: Any, **given: Any) -> Any:
        return command(*args, chosen=Chosen(**{name: given.pop(name) for name in Chosen._fields}), **given)

    wrapped: Callable[..., Any] = collected
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


@contextmanager
def opened(settings: Settings, chosen: Chosen) -> Iterator[OpenSearchPipeline]:
    """The installation that settings and options name; what the options leave open is as it is installed.

    Raises:
        SettingsError: settings or options do not suffice for a pipeline, or do not go together.
    """
    from connector.writeback.search_pipeline import PipelinePlan

    _check_kind(settings)
    with _connected(settings, PipelinePlan.of(settings, "rerank")) as pipeline:
        there = pipeline.plan.as_installed(pipeline.find().holding)
        route = chosen.route or there.route
        pipeline.plan = PipelinePlan.of(
            settings,
            route,
            chosen.query_path or (there.query_path if route == "scores" else None),
            chosen.oversample or there.oversample,
            hybrid=there.hybrid if chosen.hybrid is None else chosen.hybrid,
            into=chosen.into or there.into,
        )
        yield pipeline


@contextmanager
def opened_for_removal(settings: Settings) -> Iterator[OpenSearchPipeline]:
    """The installation of that name, whatever else the settings say."""
    from connector.writeback.search_pipeline import PipelinePlan

    _check_kind(settings)
    with _connected(settings, PipelinePlan(settings.writeback.name, "http://localhost", ("text",))) as pipeline:
        yield pipeline


def _check_kind(settings: Settings) -> None:
    if settings.engine.kind != "opensearch":
        raise SettingsError(
            f"engine.kind = {settings.engine.kind}: there is no cluster to install into; "
            "set engine.kind to opensearch or elasticsearch"
        )


@contextmanager
def _connected(settings: Settings, plan: PipelinePlan) -> Iterator[OpenSearchPipeline]:
    from connector.engines.cluster.connect import connect
    from connector.writeback.opensearch import OpenSearchPipeline

    keys = settings.serve.api_keys
    with closing(connect(settings.engine)) as connection:
        yield OpenSearchPipeline(connection, plan, keys[0].get_secret_value() if keys else "none")
