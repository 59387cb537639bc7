"""What an answer's headers say of its reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from connector.documents import RerankResult
from connector.service.responses import one_line

__all__ = ["BROKEN_OFF", "FINAL_STATUSES", "PLAIN_ANSWER", "UNJOINED", "marked"]

FINAL_STATUSES = frozenset({401, 403, 404, 429})
"""What the cluster answers so does not depend on the page that was asked for."""
UNJOINED = "a hit comes twice: hybrid without normalization"
"""The reason where nothing joined a hybrid query's lists; the caller's own request is sent."""
BROKEN_OFF = "the cluster broke off the answer to the window"
"""The reason where the connection failed; the caller's own request is sent, which may be smaller."""
PLAIN_ANSWER: Mapping[bytes, bytes | None] = {b"accept-encoding": b"identity"}
"""Request headers for an answer that is read here."""


def marked(
    response: Response,
    reranked: Sequence[bool],
    reason: str | None,
    first_stage: float,
    reranking: float | None = None,
    results: Sequence[RerankResult] = (),
) -> Response:
    """The response with the headers that say what was done.

    Args:
        response: without them.
        reranked: of each search in it.
        reason: why not, where one was not.
        first_stage, reranking: seconds.
        results: of the searches, for what was cut.
    """
    timing = f"first-stage;dur={first_stage * 1000:.1f}"
    if reranking is not None:
        timing += f", rerank;dur={reranking * 1000:.1f}"
    response.headers["X-Reranked"] = ",".join("true" if one else "false" for one in reranked)
    if reason is not None and not all(reranked):
        response.headers["X-Rerank-Reason"] = one_line(reason)
    if cut := _cut(results):
        response.headers["X-Truncated"] = cut
    response.headers.append("Server-Timing", timing)
    return response


def _cut(results: Sequence[RerankResult]) -> str:
    """The texts of which only the beginning was read. Hits are counted: those behind the page have no place in it."""
    hits = sum(hit.truncated for result in results for hit in result.hits)
    told = ["query"] * any(result.query_truncated for result in results)
    told += [f"{hits} hit" if hits == 1 else f"{hits} hits"] * bool(hits)
    return ", ".join(told)
