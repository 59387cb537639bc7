"""Many searches in one request: all asked for at once, those that can be reranked one after the other."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from connector.service.gateway.parsing.msearch_body import Item, join_items, split_items
from connector.service.gateway.parsing.raw_json import (
    Edit,
    NotPlainJson,
    Span,
    decode,
    edited,
    encode,
    scan_list,
    scan_object,
)
from connector.service.gateway.parsing.search_body import (
    SearchAnswer,
    scan_answer,
    scan_body,
    texts_body,
    without_own_ext,
)
from connector.service.gateway.ranking import rank_all
from connector.service.gateway.search_plan import PassOn, Plan, Rerank, Search, plan_search
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

__all__ = ["MultiSearching"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A search of the request: as it came (less what is ours), what becomes of it, and as it is sent."""

    item: Item
    plan: Plan
    sent: Item

    def texts_item(self, fields: Sequence[str]) -> Item:
        """The search for the documents."""
        assert isinstance(self.plan, Rerank)
        return replace(self.sent, body=texts_body(self.sent.body, self.plan.ask, fields))


class MultiSearching:
    """Answers ``_msearch``.

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
        self._skips_first_blank = settings.engine.kind == "opensearch"

    async def answer(self, request: Request, asked: ClusterRequest, index: str, options: Options) -> Response:
        """The cluster's answer with its searches reranked; or as it is, with the reason in a header.

        Raises:
            GatewayError: the cluster did not answer.
            ClientGone: nobody waits for the answer.
        """
        try:
            incoming = read_incoming(asked, self._settings.serve.max_body_mb)
            items = split_items(incoming.text, skips_first_blank=self._skips_first_blank)
            planned = [self._plan(item, incoming, index, options) for item in items]
        except (Unreadable, NotPlainJson) as error:
            return await self._pass_on(request, asked, [False], str(error))
        own = incoming.with_text(self._joined([one.item for one in planned])).request
        unranked = [False] * len(planned)
        if not options.enabled:
            return await self._pass_on(request, own, unranked, "X-Rerank: false")
        if not any(isinstance(one.plan, Rerank) for one in planned):
            sent = incoming.with_text(self._joined([one.sent for one in planned])).request
            return await self._pass_on(request, sent, unranked, _reasons([_reason(one.plan) for one in planned]))
        try:
            return await while_connected(
                request, lambda: self._rerank(request, incoming, planned, options), options.scope
            )
        except ClientGone:
            raise
        except GatewayError as error:
            if not error.is_broken_off:
                raise
            reason = BROKEN_OFF
        except NotPlainJson as error:
            reason = str(error)
        except Exception as error:
            # Whatever is wrong with reranking, the searches themselves go on.
            _log.exception("an _msearch could not be reranked")
            reason = f"failed: {type(error).__name__}"
        return await self._pass_on(request, own, unranked, reason)

    def _plan(self, item: Item, incoming: Incoming, index: str, options: Options) -> _Planned:
        header = item.header_values()
        body = {name: span.value for name, span in scan_body(item.body).items()}
        names = header.get("index", index)
        search = Search(
            index=",".join(map(str, names)) if isinstance(names, list) else str(names),
            parameters={name: incoming.parameters[name] for name in ("filter_path",) if name in incoming.parameters},
            body=body,
            preference=header.get("preference") and str(header["preference"]),
            header_query=options.query,
            filter_prefix="responses.",
        )
        if self._settings.engine.kind == "elasticsearch":
            item = replace(item, body=without_own_ext(item.body))
        plan = plan_search(search, options.window, self._fields)
        sent = _preferring(item, plan.preference)
        return _Planned(item, plan, sent.with_page(plan.ask) if isinstance(plan, Rerank) else sent)

    async def _rerank(
        self, request: Request, incoming: Incoming, planned: Sequence[_Planned], options: Options
    ) -> Response:
        began = time.monotonic()
        # Documents and totals are asked for in the same request, behind the searches.
        plans = [(at, one, one.plan) for at, one in enumerate(planned) if isinstance(one.plan, Rerank)]
        texts_items = {at: one.texts_item(self._fields) for at, one, plan in plans if plan.needs_texts}
        own_items = {at: _preferring(one.item, plan.preference) for at, one, plan in plans if plan.asks_twice}
        further = [*texts_items.values(), *own_items.values()]
        answer = await self._fetch(incoming, [*(one.sent for one in planned), *further])
        if answer.status in FINAL_STATUSES:
            reason = f"the cluster answered {answer.status}"
            return marked(answer.response(), [False] * len(planned), reason, time.monotonic() - began)
        text, found = _read(answer, len(planned) + len(further))
        behind = iter(found[len(planned) :])
        texts = {at: _texts(one.value) for at, one in zip(texts_items, behind, strict=False)}
        frames = {at: one for at, one in zip(own_items, behind, strict=True) if one.value.answer is not None}
        texts |= await self._unforeseen(incoming, planned, found, texts, options.scope)
        again = await self._ask_again(incoming, planned, found)
        first_stage, began = time.monotonic() - began, time.monotonic()
        jobs = {
            at: job
            for at, plan, one in _reranked(planned, found)
            if one.value.answer.hits and texts.get(at, {}) is not None
            if (job := job_of(one.value.answer, plan, self._fields, options, texts.get(at))) is not None
        }
        results = dict(
            zip(jobs, await rank_all(request, self._loading, list(jobs.values()), options.scope), strict=True)
        )
        elements = [text[one.start : one.end] for one in found[: len(planned)]]
        reasons: list[str | None] = [_reason(one.plan) for one in planned]
        for at, plan, one in _reranked(planned, found):
            missing = without_texts(options.scope) if texts.get(at, {}) is None else None
            passages = passages_of(one.value.answer, plan, results.get(at), self._fields, options, texts.get(at))
            policy = self._settings.serve.gateway_scores
            frame = frames.get(at, one)
            edits, mark = ranked_edits(
                text, one.value.answer, plan, results.get(at), policy, missing, frame.value.answer, passages
            )
            elements[at] = edited(text, edits, frame.start, frame.end)
            reasons[at] = mark.reason
        for at, element in again.items():
            elements[at] = element
            reasons[at] = "the cluster refused the window" if found[at].value.answer is None else UNJOINED
        # The answers to what only we asked are cut off with the end of the list.
        whole = Edit(found[0].start, found[-1].end, ",".join(elements))
        response = answer.response(encode(edited(text, [whole])))
        flags = [reason is None for reason in reasons]
        reranking = time.monotonic() - began
        return marked(response, flags, _reasons(reasons), first_stage, reranking, list(results.values()))

    async def _unforeseen(
        self,
        incoming: Incoming,
        planned: Sequence[_Planned],
        found: Sequence[Span],
        texts: Mapping[int, Texts | None],
        scope: CancelScope,
    ) -> dict[int, Texts | None]:
        """The documents of searches whose hits came without although nothing in the search said so."""
        places = [
            at
            for at, plan, one in _reranked(planned, found)
            if at not in texts and brings_no_texts(one.value.answer, plan)
        ]
        if not places:
            return {}
        items = [planned[at].texts_item(self._fields) for at in places]
        came = await fetched_within(scope, lambda: self._fetch(incoming, items))
        try:
            answered = [] if came is None else _read(came, len(items))[1]
        except NotPlainJson:
            answered = []
        return {at: _texts(answered[place].value) if answered else None for place, at in enumerate(places)}

    async def _ask_again(
        self, incoming: Incoming, planned: Sequence[_Planned], found: Sequence[Span]
    ) -> dict[int, str]:
        """Searches that were refused, or not joined, are asked for once more, as they came: place → answer."""
        refused = [
            at
            for at, (one, answered) in enumerate(zip(planned, found, strict=False))
            if one.sent != one.item and _is_to_repeat(one.plan, answered.value)
        ]
        if not refused:
            return {}
        text, repeated = _read(await self._fetch(incoming, [planned[at].item for at in refused]), len(refused))
        return {at: text[one.start : one.end] for at, one in zip(refused, repeated, strict=True)}

    async def _fetch(self, incoming: Incoming, items: Sequence[Item]) -> ClusterAnswer:
        asked = incoming.with_text(self._joined(items)).request
        return await self._cluster.fetch(asked.with_headers(PLAIN_ANSWER))

    def _joined(self, items: Sequence[Item]) -> str:
        return join_items(items, skips_first_blank=self._skips_first_blank)

    async def _pass_on(
        self, request: Request, asked: ClusterRequest, reranked: Sequence[bool], reason: str | None
    ) -> Response:
        began = time.monotonic()
        response = await while_connected(request, lambda: self._cluster.stream(asked))
        return marked(response, reranked, reason, time.monotonic() - began)


class _Answered(NamedTuple):
    """One of the answers; ``answer`` is None where it is an error, which has a status."""

    answer: SearchAnswer | None
    status: int


def _read(answer: ClusterAnswer, count: int) -> tuple[str, list[Span]]:
    """The answer's text, and where its parts are.

    Raises:
        NotPlainJson: they are not as many as were asked for.
    """
    if answer.status != 200 or not answer.is_plain:
        raise NotPlainJson(f"the cluster refused the windows ({answer.status})")
    text = decode(answer.body)

    def read_list(text: str, start: int) -> tuple[list[Span], int]:
        return scan_list(text, start, _read_one)

    members, _ = scan_object(text, 0, {"responses": read_list})
    found: list[Span] = members["responses"].value if "responses" in members else []
    if len(found) != count:
        raise NotPlainJson(f"the cluster gave {len(found)} answers to {count} searches")
    return text, found


def _read_one(text: str, start: int) -> tuple[_Answered, int]:
    answer, end = scan_answer(text, start)
    if answer is not None:
        return _Answered(answer, 200), end
    members, end = scan_object(text, start)
    status = members["status"].value if "status" in members else 500
    return _Answered(None, status if isinstance(status, int) else 500), end


def _reranked(planned: Sequence[_Planned], found: Sequence[Span]) -> list[tuple[int, Rerank, Span]]:
    """Searches that brought the hits of a window: place, plan, answer."""
    return [
        (at, one.plan, answered)
        for at, (one, answered) in enumerate(zip(planned, found, strict=False))
        if isinstance(one.plan, Rerank)
        and answered.value.answer is not None
        and not answered.value.answer.repeats_hits()
    ]


def _is_to_repeat(plan: Plan, answered: _Answered) -> bool:
    if answered.answer is None:
        return answered.status not in FINAL_STATUSES
    return isinstance(plan, Rerank) and answered.answer.repeats_hits()


def _preferring(item: Item, preference: str | None) -> Item:
    return item if preference is None else item.with_header("preference", json.dumps(preference))


def _texts(answered: _Answered) -> Texts | None:
    return None if answered.answer is None else texts_of(answered.answer)


def _reason(plan: Plan) -> str:
    return plan.reason if isinstance(plan, PassOn) else "the cluster answered an error"


def _reasons(reasons: Sequence[str | None]) -> str | None:
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason is not None)) or None
