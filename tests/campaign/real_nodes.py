"""The faults of ``clusters`` between gateway and real nodes, and kill -9 of the node itself while searches go on."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import httpx2

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult
from tests.campaign.clusters import searched, tried
from tests.campaign.faulty_proxy import FAULTS, FaultyProxy, faulty_proxy
from tests.campaign.rows import Row, Tally
from tests.nodes.fixtures import MortalNode, mortal
from tests.service.gateway.conftest import gateway_settings
from tests.service.live import serving
from tests.service.standin import StandIn

__all__ = ["real_nodes"]

_PART = "real node"
# The oldest Java that the others need runs both.
_NODES = (("opensearch", "OpenSearch", "2.19.1"), ("elasticsearch", "Elasticsearch", "8.17.0"))
# A node on a busy machine takes longer than one that is none.
_TIMEOUT_S = 3.0
_LONGEST_S = 2 * _TIMEOUT_S + 2.0
_DOCUMENTS = 12
_MAPPING: Mapping[str, Any] = {
    "settings": {"number_of_shards": 1, "number_of_replicas": 0},
    "mappings": {"properties": {"text": {"type": "text"}}},
}
_SEARCHERS = 3
_OWN_ERRORS = (502, 503, 504)
# Searches before a kill, and after the node is back.
_AROUND = 5


def real_nodes(rounds: int, seed: int = 0) -> Iterator[Row]:
    """For each product a row a fault, and one of its own kills.

    Args:
        rounds: searches of each fault, and kills.
        seed: of which requests are hit, how a search asks, and the moments of kills.

    Raises:
        NodeError: Java or Maven is missing, or a node did not come up.
    """
    drawn = random.Random(seed)
    for kind, name, version in _NODES:
        with mortal(version) as node:
            _fill(node.url)
            yield from _faults(node, kind, f"{name} {version}", drawn, rounds)
            yield _kills(node, kind, f"{name} {version}", drawn, rounds)


def _fill(url: str) -> None:
    # The longer, the later: the first stage's order is that of the ids, without a tie.
    texts = [" ".join(["cats", *["more"] * at, "sleep" if at % 3 == 2 else "bark"]) for at in range(_DOCUMENTS)]
    lines = "".join(f'{{"index":{{"_id":"{at}"}}}}\n{json.dumps({"text": text})}\n' for at, text in enumerate(texts))
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        client.put("/books", json=_MAPPING).raise_for_status()
        headers = {"Content-Type": "application/x-ndjson"}
        filled = client.post("/books/_bulk?refresh=true", content=lines, headers=headers)
        if filled.raise_for_status().json()["errors"]:
            raise AssertionError(filled.text)


def _sleepers_first(
    query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope
) -> RerankResult:
    """A word that the query lacks: the cluster's own order tells nothing of it."""
    order = sorted(range(len(documents)), key=lambda at: "sleep" not in str(documents[at]))
    return RerankResult(tuple(RankedHit(at, -float(place), -float(place)) for place, at in enumerate(order)), True)


@dataclass
class _Way:
    """A client, the gateway that it asks, and the proxy between that and the node."""

    client: httpx2.Client
    proxy: FaultyProxy
    tally: Tally = field(default_factory=Tally)
    whole: int = 0
    slowest: float = 0.0


def _way(stack: ExitStack, url: str, kind: str) -> _Way:
    proxy = stack.enter_context(faulty_proxy(url))
    chosen = gateway_settings(proxy.url, {"engine.timeout_ms": int(_TIMEOUT_S * 1000)}, kind)
    gateway, _ = stack.enter_context(serving(StandIn(_sleepers_first), chosen))
    client = stack.enter_context(httpx2.Client(base_url=gateway, timeout=60, trust_env=False))
    return _Way(client, proxy)


def _faults(node: MortalNode, kind: str, name: str, drawn: random.Random, rounds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        way = _way(stack, node.url, kind)
        # The node's own first searches load classes.
        for _ in range(_AROUND):
            way.proxy.begin(None)
            searched(way.client, drawn, way.proxy, None)

        def search(at: int, which: frozenset[int] | None) -> tuple[str | None, bool]:
            return searched(way.client, drawn, way.proxy, which)

        for fault in FAULTS:
            tally, note = tried(
                fault, search, way.proxy, drawn, rounds, _LONGEST_S, "the cluster's error", timeout_s=_TIMEOUT_S
            )
            yield tally.row(_PART, f"{name} behind the gateway: {fault}", note)


def _kills(node: MortalNode, kind: str, name: str, drawn: random.Random, rounds: int) -> Row:
    """Searches go on while the node is killed and started again; each of them is a trial."""
    with ExitStack() as stack:
        ways = [_way(stack, node.url, kind) for _ in range(_SEARCHERS)]
        done = Event()
        searching = [Thread(target=_search_on, args=(way, random.Random(f"{name} {at}"), done), daemon=True)
                     for at, way in enumerate(ways)]  # fmt: skip
        for one in searching:
            one.start()
        try:
            for _ in range(rounds):
                _until_found(ways)
                time.sleep(drawn.uniform(0, 0.5))
                node.kill()
                node.start_again()
            _until_found(ways)
        finally:
            done.set()
            for one in searching:
                one.join(_LONGEST_S)
    tally = Tally(sum(way.tally.tried for way in ways))
    for way in ways:
        for lost, count in way.tally.lost.items():
            tally.lost[lost] = tally.lost.get(lost, 0) + count
    note = (
        f"{rounds} kills; {sum(way.whole for way in ways):,} answers with hits, the rest the cluster's error; "
        f"{max(way.slowest for way in ways):.1f} s at most"
    )
    return tally.row(_PART, f"{name} behind the gateway: kill -9 and a start while searches go on", note)


def _until_found(ways: Sequence[_Way]) -> None:
    """Wait until every client got hits again, some times."""
    wanted = [way.whole + _AROUND for way in ways]
    until = time.monotonic() + 120
    while any(way.whole < count for way, count in zip(ways, wanted, strict=True)):
        if time.monotonic() > until:
            raise AssertionError("searches do not bring hits again")
        time.sleep(0.02)


def _search_on(way: _Way, drawn: random.Random, done: Event) -> None:
    while not done.is_set():
        way.proxy.begin(None)
        began = time.monotonic()
        try:
            lost, hits = _one(way, drawn)
        except Exception as error:
            lost, hits = f"{type(error).__name__}: {error}"[:150], False
        seconds = time.monotonic() - began
        if lost is None and seconds > _LONGEST_S:
            lost = f"{seconds:.1f} s with engine.timeout_ms = {_TIMEOUT_S * 1000:g}"
        way.tally.add(lost)
        way.whole, way.slowest = way.whole + hits, max(way.slowest, seconds)
        if not hits:
            # What is down stays down for seconds.
            time.sleep(0.1)


def _one(way: _Way, drawn: random.Random) -> tuple[str | None, bool]:
    """What was lost in a search, and whether it brought hits.

    What the node itself answered with hits must come, in one of two orders; else the error is the node's own.
    """
    body: dict[str, Any] = {"query": {"match": {"text": "cats"}}, "from": 1, "size": 3}
    if drawn.random() < 0.4:
        body["_source"] = False
    began = time.monotonic()
    try:
        answer = way.client.post("/books/_search", json=body)
    except httpx2.RemoteProtocolError:
        answer = None
    late = time.monotonic() - began >= _TIMEOUT_S
    statuses = [status for path, status in way.proxy.answered if path.partition("?")[0].endswith("/_search")]
    if answer is not None and answer.status_code == 200:
        ids = [one["_id"] for one in answer.json()["hits"]["hits"]]
        flag = answer.headers["X-Reranked"]
        wanted = ["5", "8", "11"] if flag == "true" else ["1", "2", "3"]
        return (None if ids == wanted else f"hits {ids} of an answer marked {flag}"), True
    told = "the connection was cut" if answer is None else f"status {answer.status_code}: {answer.text[:80]}"
    if 200 in statuses and not late:
        return f"the node answered with hits, and the caller got: {told}", False
    own = answer is None or answer.status_code in (*statuses, *_OWN_ERRORS)
    return (None if own else f"{told}, the node said {statuses}"), False
