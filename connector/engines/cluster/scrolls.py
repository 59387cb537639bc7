"""All hits of a search, however many: a scroll, and how it is known that it brought them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from connector.engines.cluster.connection import ClusterError, Connection
from connector.engines.cluster.retrying import Retrying
from connector.errors import EngineError

__all__ = ["WHOLE", "IncompleteScroll", "scrolled", "whole_hits"]

WHOLE = {"allow_partial_search_results": "false"}
"""A part of the index that does not answer must not look like one without documents."""
_KEPT = "5m"


class IncompleteScroll(EngineError):
    """A scroll that ended before it had brought all hits. A new one may bring them."""


def scrolled(
    ask: Callable[[Mapping[str, Any], Mapping[str, str]], Any],
    connection: Connection,
    retrying: Retrying,
    body: Mapping[str, Any],
) -> Iterator[list[Any]]:
    """The hits of a search as the index is now, ``size`` of them at a time, in no particular order.

    Args:
        ask: sends a search with URL parameters.
        connection: to the same cluster.
        retrying: repeats what the cluster refuses for now.
        body: the search, without an order.

    Raises:
        IncompleteScroll: it ended before it had brought them all.
        EngineError: there is no such index, a part of it did not answer, or the cluster failed.
    """
    answer = ask({**body, "sort": ["_doc"], "track_total_hits": True}, {"scroll": _KEPT, **WHOLE})
    scroll, total, seen = answer.get("_scroll_id"), answer["hits"]["total"]["value"], 0
    try:
        while hits := whole_hits(answer):
            seen += len(hits)
            yield hits
            more = {"scroll": _KEPT, "scroll_id": scroll}
            answer = retrying(partial(connection.request, "POST", "/_search/scroll", more))
            scroll = answer.get("_scroll_id", scroll)
    except ClusterError as error:
        # Nobody asked for its next page in time, or its node was restarted.
        if error.status == 404 and "search_context_missing" in str(error.body):
            raise IncompleteScroll(str(error)) from None
        raise
    finally:
        if scroll is not None:
            # Where this fails, it ends by itself in some minutes.
            with suppress(ClusterError):
                connection.request("DELETE", "/_search/scroll", {"scroll_id": [scroll]})
    if seen != total:
        # A page whose answer broke off was asked for again, and then the next one came.
        raise IncompleteScroll(f"the cluster gave {seen:,} of {total:,} documents; try again")


def whole_hits(answer: Mapping[str, Any]) -> list[Any]:
    """The hits of an answer that all shards took part in.

    Raises:
        EngineError: some did not.
    """
    shards = answer["_shards"]
    if shards["successful"] < shards["total"] or answer.get("timed_out"):
        raise EngineError(
            f"{shards['successful']} of {shards['total']} shards answered in time; look at the cluster's health, "
            "then try again"
        )
    return list(answer["hits"]["hits"])
