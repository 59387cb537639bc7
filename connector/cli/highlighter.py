"""The semantic highlighter's model, beside what ``rh-connector pipeline`` installs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from connector.cli.pipeline_output import pieces_of

if TYPE_CHECKING:
    from connector.writeback.calls import Call
    from connector.writeback.opensearch import OpenSearchPipeline
    from connector.writeback.proving import Proof

__all__ = ["example", "highlighter_of", "install_highlighter", "planned", "show_state", "state_of"]


def highlighter_of(pipeline: OpenSearchPipeline, wanted: bool = False) -> OpenSearchPipeline | None:
    """The highlighter's installation where it is wanted, or there already; else None.

    Raises:
        EngineError: it is wanted, and this cluster has no semantic highlighter.
    """
    from connector.writeback.highlighting import beside, check_version

    if wanted:
        check_version(pipeline.connection.version)
    highlighter = beside(pipeline)
    highlighter.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}, for highlights", err=True)
    return highlighter if wanted or not highlighter.find().is_empty else None


def planned(highlighter: OpenSearchPipeline | None) -> Iterable[Call]:
    """The calls that are missing."""
    return () if highlighter is None else highlighter.calls(highlighter.find())


def install_highlighter(highlighter: OpenSearchPipeline, index: str) -> tuple[list[Call], list[Proof]]:
    """See ``connector.writeback.highlighting.install_highlighter``."""
    from connector.writeback import highlighting

    return highlighting.install_highlighter(highlighter, index)


def example(highlighter: OpenSearchPipeline) -> dict[str, Any]:
    """What a search says to get the sentences marked."""
    from connector.writeback.highlighting import options_of

    field = highlighter.plan.fields[0]
    return {
        "highlight": {
            "fields": {field: {"type": "semantic"}},
            # Without, the cluster takes the words out of the query, which it can do for few kinds.
            "highlight_query": {"match": {field: "QUERY"}},
            "options": options_of(highlighter.find()),
        }
    }


def state_of(highlighter: OpenSearchPipeline) -> dict[str, Any]:
    """Pieces, what differs from the plan, and whether the cluster reaches the service; JSON-ready."""
    from connector.writeback.highlighting import prove_highlights

    found = highlighter.find()
    pieces = pieces_of(found)
    del pieces["pipeline"]
    failed = next((proof for proof in prove_highlights(highlighter, None) if not proof.holds), None)
    return {
        "pieces": pieces,
        "drift": highlighter.drift(found),
        "reached": failed is None,
        "detail": "a sentence is found" if failed is None else failed.detail,
    }


def show_state(state: Mapping[str, Any] | None) -> None:
    """One line, or one a piece that is missing; nothing where no highlighter is installed."""
    if state is None:
        return
    reached = "reached, " if state["reached"] else "NOT REACHED: "
    click.echo(f"{'highlighter':<14}{state['pieces']['model']}, {reached}{state['detail']}")
    for line in state["drift"]:
        click.echo(f"{'differs':<14}highlighter: {line}")
