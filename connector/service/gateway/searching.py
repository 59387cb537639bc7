"""One search: asked for larger than the page, reranked, cut to the page."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from connector.cancelling import CancelScope
from connector.sections import Settings
from connector.service.admission import ClientGone, while_connected
from connector.service.gateway.cluster_errors import GatewayError
from connector.service.gateway.forwarding import Cluster, ClusterAnswer, ClusterRequest, fetched_within
from connector.service.gateway.incoming import Incoming, Unreadable, read_incoming
from connector.service.gateway.marking import BROKEN_OFF, FINAL_STATUSES, PLAIN_ANSWER, UNJOINED, marked
from connector.service.gateway.options import Options
from connector.service.gateway.parsing.raw_json import NotPlainJson, decode, edited, encode
from connector.service.gateway.parsing.search_body import (
    SearchAnswer,
    read_answer,
    scan_body,
    texts_body,
    without_own_ext,
)
from connector.service.gateway.parsing.url_query import only_parameters, with_parameters
from connector.service.gateway.ranking import rank_all
from connector.service.gateway.search_plan import PassOn, Rerank, Search, passed_parameters, plan_search
from connector.service.gateway.windows import (
    Texts,
    brings_no_texts,
    job_of,
    passages_of,
    ranked_edits,
    texts_of,
    without_texts,
)
from connector.service.loading import Loading

__all__ = ["Searching"]

_log = logging.getLogger(__name__)


class Searching:
    """Answers ``_search``.

    Args:
        cluster: that searches.
        loading: the model.
        settings: fields, limits and defaults.
    """

    def __init__(self, cluster: Cluster, loading: Loading, settings: Settings) -> None:
        self._cluster = cluster
        self._loading = loading
        self._settings = settings
        self._fields = tuple(settings.engine.field_weights())

    async def answer(self, request: Request, asked: ClusterRequest, index: str, options: Options) -> Response:
        """The cluster's answer, reranked; or as it is, with the reason in a header.

        Raises:
            GatewayError: the cluster did not answer.
            ClientGone: nobody waits for the answer.
        """
        try:
            incoming = read_incoming(asked, self._settings.serve.max_body_mb)
            body = {name: span.value for name, span in scan_body(incoming.text).items()}
            if self._settings.engine.kind == "elasticsearch":
                incoming = incoming.with_text(without_own_ext(incoming.text))
        except (Unreadable, NotPlainJson) as error:
            return await self._pass_on(request, asked, str(error))
        if not options.enabled:
            return await self._pass_on(request, incoming.request, "X-Rerank: false")
        search = Search(index, incoming.parameters, body, header_query=options.query)
        plan = plan_search(search, options.window, self._fields)
        if isinstance(plan, PassOn):
            return await self._pass_on(request, _preferring(incoming.request, plan.preference), plan.reason)
        try:
            return await while_connected(
                request, lambda: self._rerank(request, incoming, plan, options), options.scope
            )
        except ClientGone:
            raise
        except GatewayError as error:
            if not error.is_broken_off:
                raise
            reason = BROKEN_OFF
        except _Refused as refused:
            reason = str(refused)
        except Exception as error:
            # Whatever is wrong with reranking, the search itself goes on.
            _log.exception("a search could not be reranked")
            reason = f"failed: {type(error).__name__}"
        return await self._pass_on(request, incoming.request, reason)

    async def _rerank(self, request: Request, incoming: Incoming, plan: Rerank, options: Options) -> Response:
        began = time.monotonic()
        # In the URL these win over the body, which so stays as it is.
        larger = with_parameters(incoming.request.query, {"from": "0", "size": str(plan.ask)})
        asked = _preferring(replace(incoming.request, query=larger), plan.preference).with_headers(PLAIN_ANSWER)
        found = await self._cluster.fetch(asked)
        first_stage = time.monotonic() - began
        if found.status in FINAL_STATUSES:
            return marked(found.response(), [False], f"the cluster answered {found.status}", first_stage)
        window = _read(found, plan)
        text, answer = window.text, window.answer
        texts: Texts | None = None
        missing = None
        hidden = plan.needs_texts or brings_no_texts(answer, plan)
        if hidden and answer.hits and options.scope.remaining() > 0:
            texts = await self._texts(incoming, asked, plan, options.scope)
            missing = without_texts(options.scope) if texts is None else None
        own = await self._own(incoming, plan) if plan.asks_twice else None
        began = time.monotonic()
        result = None
        if answer.hits and missing is None:
            job = job_of(answer, plan, self._fields, options, texts)
            if job is not None:
                (result,) = await rank_all(request, self._loading, [job], options.scope)
        passages = passages_of(answer, plan, result, self._fields, options, texts)
        policy = self._settings.serve.gateway_scores
        edits, mark = ranked_edits(text, answer, plan, result, policy, missing, own.answer if own else None, passages)
        shown = own or window
        response = shown.found.response(encode(edited(shown.text, edits)))
        ranked = [] if result is None else [result]
        return marked(response, [mark.reranked], mark.reason, first_stage, time.monotonic() - began, ranked)

    async def _texts(
        self, incoming: Incoming, asked: ClusterRequest, plan: Rerank, scope: CancelScope
    ) -> Texts | None:
        """The documents of the hits; None where the cluster does not give them, or not in time."""
        body = encode(texts_body(incoming.text, plan.ask, self._fields))
        headers: dict[bytes, bytes | None] = {b"content-encoding": None}
        if not incoming.request.body:
            headers |= {b"content-type": b"application/json", b"accept": b"application/json"}
        wanted = {"filter_path": "hits.hits._index,hits.hits._id,hits.hits._source"}
        query = with_parameters(only_parameters(asked.query, passed_parameters), wanted)
        found = await fetched_within(
            scope,
            lambda: self._cluster.fetch(replace(asked.with_headers(headers), method="POST", query=query, body=body)),
        )
        if found is None or found.status != 200 or not found.is_plain:
            return None
        try:
            return texts_of(read_answer(decode(found.body)))
        except NotPlainJson:
            return None

    async def _own(self, incoming: Incoming, plan: Rerank) -> _Found | None:
        """The answer to the caller's own search; None where the cluster refuses it."""
        asked = _preferring(incoming.request, plan.preference).with_headers(PLAIN_ANSWER)
        found = await self._cluster.fetch(asked)
        try:
            return _read(found, plan)
        except _Refused:
            return None

    async def _pass_on(self, request: Request, asked: ClusterRequest, reason: str) -> Response:
        began = time.monotonic()
        response = await while_connected(request, lambda: self._cluster.stream(asked))
        return marked(response, [False], reason, time.monotonic() - began)


class _Refused(Exception):
    """The answer to the larger search is none that can be reranked."""


class _Found(NamedTuple):
    """An answer of the cluster, its text, and where its parts stand in it."""

    found: ClusterAnswer
    text: str
    answer: SearchAnswer


def _read(found: ClusterAnswer, plan: Rerank) -> _Found:
    if found.status != 200:
        raise _Refused(f"the cluster refused a window of {plan.ask} hits ({found.status})")
    if not found.is_plain:
        raise _Refused("the answer is not JSON")
    text = decode(found.body)
    try:
        answer = read_answer(text)
    except NotPlainJson:
        raise _Refused("the answer holds no hits") from None
    if answer.repeats_hits():
        raise _Refused(UNJOINED)
    return _Found(found, text, answer)


def _preferring(asked: ClusterRequest, preference: str | None) -> ClusterRequest:
    if preference is None:
        return asked
    return replace(asked, query=with_parameters(asked.query, {"preference": preference}))
