"""The reranker: one query and its documents in, the same documents in a better order out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

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
from connector.errors import BackboneError, RequestError
from connector.heads.fusion import fuse, fusion_of, rank_scores
from connector.heads.head_sets import HeadSet
from connector.heads.pins import finite_score, pin_floor
from connector.heads.readouts import HeadSignal, token_weights
from connector.heads.routes import Route, route_scores
from connector.heads.scoring import below
from connector.heads.signals import signal_scores
from connector.routing.selection import Routes
from connector.sections import Mode, ReadOut, Settings

__all__ = ["Reranker"]

logger = logging.getLogger(__name__)
# Log-odds of a document without text, where scores are log-odds: no other comes near it.
_WITHOUT_TEXT = -30.0
# Tokens of the part of a document that is shown as what the heads looked at.
_SHOWN_TOKENS = 24


@dataclass(frozen=True, slots=True)
class _Input:
    text: str
    id: str | None
    score: float | None


class Reranker:
    """Reranks with signals of a frozen LLM. Thread-safe, deterministic.

    Args:
        reader: the LLM.
        heads: the routes that queries take; or one set of heads for all queries.
        readout: how attention becomes a score, for one set of heads.
        fusion: weight of the first stage, ``rrf``, ``none``, or ``auto``: the route's own gate of it.
        fields: fields whose text is scored, of documents that have fields; empty: all text fields.
        deadline_ms: default deadline of a request.
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
    ) -> None:
        self.reader = reader
        self.routes = heads if isinstance(heads, Routes) else Routes.of_heads(reader, heads, readout)
        self._fusion = fusion
        self._fields = tuple(fields)
        self._deadline_ms = deadline_ms

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        progress: Callable[[str, float | None], None] | None = None,
        *,
        reader: Reader | None = None,
    ) -> Reranker:
        """Load the LLM and the router or head set that the settings name.

        Args:
            settings: see ``load_settings``; None: the defaults, without any file or variable.
            progress: called with what is being fetched and how much of it is here (0 to 1).
            reader: the settings' LLM, where it is loaded already; None: it is loaded.

        Raises:
            SettingsError, BackboneError: see ``open_reader`` and ``Routes.from_settings``.
        """
        from connector.routing.opening import open_reader

        settings = Settings() if settings is None else settings
        reader = open_reader(settings, progress) if reader is None else reader
        return cls(
            reader,
            Routes.from_settings(settings, reader),
            fusion=fusion_of(settings),
            fields=tuple(settings.engine.field_weights()),
            deadline_ms=settings.rerank.deadline_ms,
        )

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
            deadline_ms: milliseconds from now; when they are over, the first-stage order goes back.
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
        scores, ranks = _first_stage(first_stage, inputs, all(isinstance(d, Hit) for d in documents))
        order = sorted(range(len(inputs)), key=lambda at: ranks[at]) if ranks else list(range(len(inputs)))
        floor = math.inf if scores is None else pin_floor(scores)
        pins = [at for at in order if scores is not None and scores[at] >= floor]
        rest = sorted(set(order).difference(pins))

        def unchanged(reason: str) -> RerankResult:
            return _unchanged(inputs, order, scores, ranks, reason, started)

        self.routes.check(mode)
        if not inputs:
            return unchanged("no documents")
        if not rest:
            return unchanged("all pinned")
        if not any(has_text(inputs[at].text) for at in rest):
            return unchanged("empty documents")
        try:
            with _scope(deadline, scope) as own:
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
            known_ranks = None if ranks is None else [ranks[at] for at in rest]
            workings = _workings(route, self._fusion)
            ranked = self._ranked([inputs[at] for at in rest], route, workings, reading, known, known_ranks)
            kept = _pinned(pins, ranked[0].score, inputs, scores, ranks)
            hits = (*kept, *(replace(hit, index=rest[hit.index]) for hit in ranked))
            result = self._result(hits, route, workings, reading)
            timings["score"] = (time.perf_counter() - routing) * 1000 - sum(timings.values())
            timings["total"] = (time.perf_counter() - started) * 1000
            return replace(result, mode=mode or self.routes.default, timings_ms=timings)
        except Cancelled as ended:
            return unchanged(ended.reason)
        except Exception as error:
            # Whatever the LLM, its libraries or the hardware do: a search must not fail because of reranking.
            logger.exception("reranking failed; the first-stage order goes back")
            return unchanged(f"failed: {type(error).__name__}: {error}")

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

    def _input(self, at: int, document: str | Mapping[str, Any] | Hit) -> _Input:
        if isinstance(document, str):
            return _Input(document, None, None)
        if isinstance(document, Hit):
            return _Input(document_text(document.fields, self._fields), document.id, document.score)
        if isinstance(document, Mapping):
            identity = document.get("id", document.get("_id"))
            fields = {name: value for name, value in document.items() if name not in ("id", "_id")}
            return _Input(document_text(fields, self._fields), None if identity is None else str(identity), None)
        raise RequestError(f"documents[{at}] is {type(document).__name__}; give text or an object with text fields")

    def _ranked(
        self,
        inputs: Sequence[_Input],
        route: Route,
        workings: Workings,
        reading: Reading,
        scores: Sequence[float] | None,
        ranks: Sequence[int] | None,
    ) -> list[RankedHit]:
        """What was read, best first; ``index`` is the place in ``inputs``."""
        signals = signal_scores(route.signals, reading)
        head_scores, best = route_scores(route, signals, reading.documents)
        if not np.isfinite(head_scores).all():
            raise BackboneError("a head score is not finite; check the weights and the dtype")
        first = None
        if ranks is not None:
            first = rank_scores(ranks) if scores is None else np.array(scores)
        final = fuse(head_scores, first, workings.fusion, workings.spread)
        with_text = [at for at, place in enumerate(best) if place is not None]
        lowest = below(final[with_text])
        if route.absolute is not None:
            # As unlikely wherever it is sent, alone or with others.
            lowest = min(lowest, _WITHOUT_TEXT)
        for at, place in enumerate(best):
            if place is None:
                final[at] = min(lowest, final[at])
        shown = _shown(reading, best)
        # Ties keep first-stage order.
        ranked = sorted(range(len(inputs)), key=lambda at: (-final[at], ranks[at] if ranks else at))
        return [
            RankedHit(
                index=at,
                score=float(final[at]),
                head_score=float(head_scores[at]),
                first_stage_score=None if scores is None else float(scores[at]),
                first_stage_rank=None if ranks is None else ranks[at],
                truncated=reading.truncated[at],
                passages=len(reading.documents[at]),
                passage=None if not shown[at] else (shown[at][0][0], shown[at][-1][1]),
                id=inputs[at].id,
                looked_at=shown[at],
                signals=_best_values(signals, reading.documents[at], best[at]),
            )
            for at in ranked
        ]

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
    inputs: Sequence[_Input],
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


def _best_values(signals: npt.NDArray[np.float64], passages: Sequence[int], best: int | None) -> tuple[float, ...]:
    """The values of all signals for a document's best passage."""
    return () if best is None else tuple(signals[:, passages[best]].tolist())


@contextmanager
def _scope(deadline: float, given: CancelScope | None) -> Iterator[CancelScope]:
    """A scope with this deadline that is cancelled when the given one is."""
    own = CancelScope(deadline)
    if given is None:
        yield own
        return
    with given.waking(own.cancel):
        yield own


def _shown(reading: Reading, best: Sequence[int | None]) -> list[tuple[tuple[int, int, float], ...]]:
    """Of each document the tokens that the heads looked at most in its best passage: see ``RankedHit.looked_at``.

    No tokens where no head was read.
    """
    if not reading.heads:
        return [()] * len(best)
    weights = np.maximum(token_weights(reading), 0.0)
    sums = _running_sums(weights, _SHOWN_TOKENS)
    ends = np.cumsum(reading.lengths).tolist()
    found: list[tuple[tuple[int, int, float], ...]] = []
    for passages, texts, place in zip(reading.documents, reading.texts, best, strict=True):
        if place is None:
            found.append(())
            continue
        passage, first = texts[place], 0
        tokens, end = passage.tokens, ends[passages[place]]
        if tokens > _SHOWN_TOKENS:
            # A sum that reaches into the next passage is not looked at.
            first = int(sums[end - tokens : end - _SHOWN_TOKENS + 1].argmax())
        last = min(first + _SHOWN_TOKENS, tokens)
        looked = weights[end - tokens + first : end - tokens + last].tolist()
        starts, stops = passage.spans[first:last].T.tolist()
        found.append(tuple(zip(starts, stops, looked, strict=True)))
    return found


def _running_sums(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Sums of so many values that follow each other, each summed in the same order wherever it stands."""
    count = len(values)
    sums, covered = np.zeros(count), 0
    part, size = values, 1
    while covered < width <= count:
        if width & size:
            behind = covered + size
            sums = sums[: count - behind + 1] + part[covered : covered + count - behind + 1]
            covered = behind
        part, size = part[:-size] + part[size:], 2 * size
    return sums


def _first_stage(
    given: FirstStage, inputs: Sequence[_Input], are_hits: bool
) -> tuple[list[float] | None, list[int] | None]:
    """First-stage scores and ranks (from 1), each None where unknown."""
    if given is None and are_hits and inputs:
        scores = [item.score for item in inputs]
        # Hits come in first-stage order; scores that are missing for one, or are none, are of no use for the others.
        known = [finite_score(score) for score in scores if score is not None and not math.isnan(score)]
        return (known if len(known) == len(scores) else None), list(range(1, len(inputs) + 1))
    if given is None:
        return None, None
    if given == "order":
        return None, list(range(1, len(inputs) + 1))
    if isinstance(given, str):
        raise RequestError(f"first_stage = '{given}': give \"order\" or one score for each document")
    if len(given) != len(inputs):
        raise RequestError(f"first_stage has {len(given)} scores for {len(inputs)} documents; give one for each")
    for at, score in enumerate(given):
        if isinstance(score, bool) or not isinstance(score, int | float | np.number) or not _is_finite(score):
            raise RequestError(
                f"first_stage[{at}] = {score!r:.40} is not a finite number; give one, higher is better"
            )
    places = sorted(range(len(given)), key=lambda at: -given[at])
    ranks = [0] * len(given)
    for rank, at in enumerate(places, 1):
        ranks[at] = rank
    return [float(score) for score in given], ranks


def _unchanged(
    inputs: Sequence[_Input],
    order: Sequence[int],
    scores: Sequence[float] | None,
    ranks: Sequence[int] | None,
    reason: str,
    started: float,
) -> RerankResult:
    # Where there was nothing to read, no document is likely.
    highest = _WITHOUT_TEXT if reason == "empty documents" else 0.0
    hits = tuple(
        RankedHit(
            index=at,
            # Strictly decreasing, so that whoever sorts by score keeps this order.
            score=highest + 1.0 / (place + 1),
            first_stage_score=None if scores is None else float(scores[at]),
            first_stage_rank=None if ranks is None else ranks[at],
            id=inputs[at].id,
        )
        for place, at in enumerate(order)
    )
    return RerankResult(hits, False, reason, timings_ms={"total": (time.perf_counter() - started) * 1000})


def _is_finite(score: float | np.number[Any]) -> bool:
    try:
        return math.isfinite(score)
    except OverflowError:
        # A whole number beyond all floats.
        return False
