"""What a layout can give."""

from __future__ import annotations

from connector.backbone.runtime import Needs
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.heads.row_groups import QUERY_GROUPS
from connector.sections import Layout

__all__ = ["check_needs"]


def check_needs(needs: Needs, layout: Layout, shape: BackboneShape) -> None:
    """Refuse what a layout cannot give.

    Raises:
        BackboneError: states or a likelihood of a layout that reads all documents at once, or rows behind the query
            of ``solo``; or what the LLM does not have.
    """
    beyond = [pair for pair in needs.heads if pair[0] >= shape.layers or pair[1] >= shape.heads]
    if beyond or max(needs.layers, default=0) > shape.layers:
        what = f"head {beyond[0]}" if beyond else f"layer {max(needs.layers)}"
        raise BackboneError(f"{what} is wanted of an LLM with {shape.layers} layers of {shape.heads} heads")
    if layout != "solo" and (needs.layers or needs.likelihood):
        raise BackboneError(f"backbone.layout = {layout} gives no hidden states and no likelihood; set it to solo")
    if layout == "solo" and needs.heads and set(needs.groups) - set(QUERY_GROUPS):
        raise BackboneError("backbone.layout = solo gives attention of the query's own rows only; set it to late")
