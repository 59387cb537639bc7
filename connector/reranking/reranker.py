"""The reranker: one query and its documents in, the same documents in a better order out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.cancelling import Cancelled, CancelScope
from connector.documents import (
    FirstStage,
    Hit,
    RankedHit,
    RerankResult,
    UsedHead,
    UsedSignal,
    Workings,
    document_text,
    has_text,
)
from connector.errors import RequestError
from connector.heads.fusion import fusion_of
from connector.heads.head_sets import HeadSet
from connector.heads.pins import pin_floor
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Route, route_scores
from connector.heads.signals import signal_scores
from connector.reranking.cascade import Cascade, check_absolute
from connector.reranking.inputs import Input, first_stage_of, unchanged
from connector.reranking.second_settings import check_routers
from connector.reranking.window_scores import Scored, Window, ranked_hits, scored, scored_again
from connector.routing.selection import Routes, counts_nothing
from connector.sections import Mode, ReadOut, Settings

__all__ = ["Reranker"]

logger = logging.getLogger(__name__)


class Reranker:
    """Reranks with signals of a frozen LLM. Thread-safe, deterministic.

    Args:
        reader: the LLM.
        heads: the routes that queries take; or one set of heads for all queries.
        readout: how attention becomes a score, for one set of heads.
        fusion: weight of the first stage, ``rrf``, ``none``, or ``auto``: the route's own gate of it.
        fields: fields whose text is scored, of documents that have fields; empty: all text fields.
        deadline_ms: default deadline of a request.
        cascade: a second, larger LLM, which reads the first hits of what comes out; None: none does.

    Raises:
        BackboneError: there is a second LLM, and the heads are no router whose scores are log-odds.
    """

    def __init__(
        self,
        reader: Reader,
        heads: HeadSet | Routes,
        *,
        readout: ReadOut = "query",
        fusion: str | float = "auto",
        fields: Sequence[str] = (),
        deadline_ms: float | None = None,
        cascade: Cascade | None = None,
    ) -> None:
        self.reader = reader
        self.routes = heads if isinstance(heads, Routes) else Routes.of_heads(reader, heads, readout)
        self._fusion = fusion
        self._fields = tuple(fields)
        self._deadline_ms = deadline_ms
        self.cascade = cascade
        if cascade is not None:
            check_absolute(self.routes, "the first LLM", "backbone")

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        progress: Callable[[str, float | None], None] | None = None,
        *,
        reader: Reader | None = None,
        second: Reader | None = None,
    ) -> Reranker:
        """Load the LLM and the router or head set that the settings name; of a cascade also the second ones.

        Args:
            settings: see ``load_settings``; None: the defaults, without any file or variable.
            progress: called with what is being fetched and how much of it is here (0 to 1).
            reader: the settings' LLM, where it is loaded already; None: it is loaded.
            second: the same of a cascade's second LLM.

        Raises:
            SettingsError, BackboneError: see ``open_reader`` and ``Routes.from_settings``.
        """
        from connector.routing.opening import open_reader

        settings = Settings() if settings is None else settings
        # First: what does not go together is found out before a model is loaded.
        check_routers(settings)
        reader = open_reader(settings, progress) if reader is None else reader
        routes = Routes.from_settings(settings, reader)
        if told := counts_nothing(settings, routes.bundle):
            logger.warning(told)
        return cls(
            reader,
            routes,
            fusion=fusion_of(settings),
            fields=tuple(settings.engine.field_weights()),
            deadline_ms=settings.rerank.deadline_ms,
            cascade=Cascade.from_settings(settings, progress, reader=second),
        )

    def close(self) -> None:
        """Have the document caches write what is left, and let go of them; the reranker works on without."""
        self.reader.close()
        if self.cascade is not None:
            self.cascade.reader.close()

    def rerank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any] | Hit],
        *,
        first_stage: FirstStage = None,
        deadline_ms: float | None = None,
        mode: Mode | None = None,
        scope: CancelScope | None = None,
        instruction: str | None = None,
        most_tokens: int | None = None,
    ) -> RerankResult:
        """Order documents by how much the LLM's chosen heads attend to them, fused with the first stage.

        Documents whose first-stage scores tower over the rest (``pin_floor``) stay in front, in their order and
        unread. The others are ranked as if these were not there.

        Args:
            query: the query's text.
            documents: texts, JSON objects (their text fields are scored), or first-stage hits in their order.
            first_stage: first-stage scores, one a document, higher is better; or ``"order"``: the documents come
                best first; or None: taken from hits, else there is no first stage and the head scores decide.
            deadline_ms: milliseconds from now; when they are over, the first-stage order goes back. A pass of the LLM
                that has begun is run to its end first; a service does not wait for it.
            mode: how the heads are chosen: ``routed``, ``static`` or ``all``; None: as the settings say.
            scope: the request's own deadline, and whether it is still wanted; of two deadlines the sooner counts.
            instruction: what the query is after; read before the query, and no part of it: heads are chosen, and the
                query is scored, without it. Over 256 tokens, its beginning counts.
            most_tokens: of a document, from 1; what is behind them is not read. None: as many as are read of any.

        Returns:
            Every document exactly once. When the LLM fails or is late, or the scope is cancelled, the input
            (or, where scores were given, first-stage) order with ``reranked`` False and a reason.

        Raises:
            RequestError: an empty query, a document or first-stage score that is none, a mode that is not loaded.
        """
        started, deadline = time.perf_counter(), self._deadline(deadline_ms, scope)
        if not isinstance(query, str):
            raise RequestError(f"query is {type(query).__name__}; give the text that was searched for")
        if not has_text(query):
            raise RequestError("query is empty; give the text that was searched for")
        if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
            raise RequestError(f"documents is {type(documents).__name__}; give a list of texts, objects or hits")
        inputs = [self._input(at, document) for at, document in enumerate(documents)]
        scores, ranks = first_stage_of(first_stage, inputs, all(isinstance(d, Hit) for d in documents))
        order = sorted(range(len(inputs)), key=lambda at: ranks[at]) if ranks else list(range(len(inputs)))
        floor = math.inf if scores is None else pin_floor(scores)
        pins = [at for at in order if scores is not None and scores[at] >= floor]
        rest = sorted(set(order).difference(pins))

        def untouched(reason: str) -> RerankResult:
            return unchanged(inputs, order, scores, ranks, reason, started)

        self.routes.check(mode)
        if not inputs:
            return untouched("no documents")
        if not rest:
            return untouched("all pinned")
        if not any(has_text(inputs[at].text) for at in rest):
            return untouched("empty documents")
        try:
            with (scope or CancelScope()).until(deadline) as own:
                own.check()
                routing = time.perf_counter()
                known = None if scores is None else [scores[at] for at in rest]
                route = self.routes.route(query, mode, known)
                timings = {"route": (time.perf_counter() - routing) * 1000}
                own.check()
                reading = self.reader.read(
                    query,
                    [inputs[at].text if has_text(inputs[at].text) else "" for at in rest],
                    route.needs,
                    pool=self.routes.pool(mode),
                    scope=own,
                    instruction=instruction or "",
                    most_tokens=most_tokens,
                )
                own.check()
                timings.update(reading.timings_ms)
                workings = _workings(route, self._fusion)
                window = Window(
                    [inputs[at] for at in rest], known, None if ranks is None else [ranks[at] for at in rest]
                )
                signals = signal_scores(route.signals, reading)

                def finished(found: Scored) -> RerankResult:
                    ranked = ranked_hits(found, signals, reading)
                    kept = _pinned(pins, ranked[0].score, inputs, scores, ranks)
                    hits = (*kept, *(replace(hit, index=rest[hit.index]) for hit in ranked))
                    result = self._result(hits, route, workings, reading)
                    if self.cascade is not None:
                        result = replace(result, second_hits=len(found.second))
                    taken = timings | {"score": (time.perf_counter() - routing) * 1000 - sum(timings.values())}
                    taken["total"] = (time.perf_counter() - started) * 1000
                    return replace(result, mode=mode or self.routes.default, timings_ms=taken)

                found = scored(window, route, workings, *route_scores(route, signals, reading.documents))
                if self.cascade is None or route.absolute is None:
                    return finished(found)
                if scope is not None:
                    # A batch of the second LLM cannot be stopped; whoever answers at the deadline has this.
                    scope.found = partial(finished, found)
                began = time.perf_counter()
                found = scored_again(self.cascade, found, query, instruction, most_tokens, own)
                timings["second"] = (time.perf_counter() - began) * 1000
                return finished(found)
        except Cancelled as ended:
            return untouched(ended.reason)
        except Exception as error:
            # Whatever the LLM, its libraries or the hardware do: a search must not fail because of reranking.
            logger.exception("reranking failed; the first-stage order goes back")
            return untouched(f"failed: {type(error).__name__}: {error}")

    def _deadline(self, deadline_ms: float | None, given: CancelScope | None) -> float:
        """The sooner of a request's deadlines, in seconds of ``time.monotonic``; where it has none, the default.

        Raises:
            RequestError: it is no number, or below 0.
        """
        if deadline_ms is not None and (not isinstance(deadline_ms, int | float) or not deadline_ms >= 0):
            raise RequestError(f"deadline_ms = {deadline_ms!r}: give a number of milliseconds, 0 or more")
        until = math.inf if given is None else given.deadline
        if deadline_ms is None and until == math.inf:
            deadline_ms = self._deadline_ms
        return min(until, CancelScope.after(deadline_ms).deadline)

    def _input(self, at: int, document: str | Mapping[str, Any] | Hit) -> Input:
        if isinstance(document, str):
            return Input(document, None, None)
        if isinstance(document, Hit):
            return Input(document_text(document.fields, self._fields), document.id, document.score)
        if isinstance(document, Mapping):
            identity = document.get("id", document.get("_id"))
            fields = {name: value for name, value in document.items() if name not in ("id", "_id")}
            return Input(document_text(fields, self._fields), None if identity is None else str(identity), None)
        raise RequestError(f"documents[{at}] is {type(document).__name__}; give text or an object with text fields")

    def _result(
        self, hits: tuple[RankedHit, ...], route: Route, workings: Workings, reading: Reading
    ) -> RerankResult:
        return RerankResult(
            hits,
            True,
            None,
            reading.heads,
            cached=reading.cached,
            encoded=reading.encoded,
            query_truncated=reading.query_truncated,
            instruction_truncated=reading.instruction_truncated,
            gates=tuple(
                UsedHead(signal.layer, signal.head, signal.readout, gate)
                if isinstance(signal, HeadSignal)
                else UsedSignal(str(signal), gate)
                for signal, gate in zip(route.signals, route.gates, strict=True)
            ),
            first_stage_gate=route.first_stage_gate,
            deepest_layer=route.needs.depth(self.reader.runtime.shape.layers) - 1,
            calibrated=route.absolute is not None,
            workings=workings,
        )


def _pinned(
    pins: Sequence[int],
    best: float,
    inputs: Sequence[Input],
    scores: Sequence[float] | None,
    ranks: Sequence[int] | None,
) -> list[RankedHit]:
    """Hits that keep their places: their scores fall from 1 above the best other, for clients sort by them."""
    return [
        RankedHit(
            index=at,
            score=best + (len(pins) - place) / len(pins),
            first_stage_score=None if scores is None else scores[at],
            first_stage_rank=None if ranks is None else ranks[at],
            id=inputs[at].id,
        )
        for place, at in enumerate(pins)
    ]


def _workings(route: Route, fusion: str | float) -> Workings:
    """What ``route_scores`` and ``fuse`` compute with; ``auto`` is the route's own gate of the first stage."""
    count, absolute = len(route.signals), route.absolute
    total = 1.0 if absolute else sum(route.gates)
    return Workings(
        gates=tuple(gate / total for gate in route.gates),
        means=absolute.means if absolute else (0.0,) * count,
        scales=route.scales or (1.0,) * count,
        bias=absolute.bias if absolute else 0.0,
        spread=absolute.spread if absolute else None,
        fusion=route.first_stage_gate if fusion == "auto" else fusion,
    )
