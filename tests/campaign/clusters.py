"""Faults of the cluster behind the gateway, and of one whose hits are reranked here.

The caller gets the cluster's own answer, reranked or not, or an error that is the cluster's, soon. A fault of what
only the gateway asks for costs the reranking and never the search.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
import trustme

from connector.engines.open_engine import open_engine
from connector.errors import RhConnectorError
from connector.settings import load_settings
from tests.campaign.faulty_proxy import FAULTS, FaultyProxy, faulty_proxy
from tests.campaign.rows import Row, Tally
from tests.service.gateway.conftest import gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster, hit, running_cluster
from tests.service.live import serving
from tests.service.standin import StandIn

__all__ = ["clusters", "searched", "speaks_as", "tried"]

_PART = "cluster"
_TIMEOUT_S, _RETRY_S = 0.4, 0.3
# Of the gateway: two waits for the cluster. Of the engine: one answer without an end, and some that are tried again.
_LONGEST_GATEWAY_S, _LONGEST_ENGINE_S = 2 * _TIMEOUT_S + 1.0, 3 * _TIMEOUT_S + 3 * _RETRY_S + 1.0
_PAGE = {"from": 1, "size": 3}
_KINDS = ("opensearch", "elasticsearch")
_ROOTS: Mapping[str, Mapping[str, Any]] = {
    "opensearch": {"version": {"number": "2.19.1", "distribution": "opensearch"}},
    "elasticsearch": {"version": {"number": "8.19.0"}, "tagline": "You Know, for Search"},
}
# Requests of one search that something is done to.
_WHICH = (None, frozenset({0}), frozenset({1}), frozenset({2}))


def clusters(rounds: int, seed: int = 0) -> Iterator[Row]:
    """A row for each fault, at the gateway and at the engine.

    Args:
        rounds: searches of each.
        seed: of which requests are hit, and how a search asks.
    """
    drawn = random.Random(seed)
    with running_cluster() as cluster, faulty_proxy(cluster.url) as proxy:
        _fill(cluster)
        yield from _gateway(cluster, proxy, drawn, rounds)
        yield from _engine(cluster, proxy, drawn, rounds)


def _fill(cluster: FakeCluster) -> None:
    cluster.hits = [hit(at, 20 - at, f"{'cats' if at % 3 == 2 else 'dogs'} {at}") for at in range(12)]
    cluster.texts = {str(at): {"text": f"{'cats' if at % 3 == 2 else 'dogs'} {at}"} for at in range(12)}


def speaks_as(cluster: FakeCluster, kind: str) -> None:
    """Answer what an engine asks before it searches, as that product does."""
    told: Mapping[str, Any] = {
        "/": _ROOTS[kind],
        "/books/_mapping": {"books": {"mappings": {"properties": {"text": {"type": "text"}}}}},
        "/books/_settings/index.search.default_pipeline": {"books": {"settings": {}}},
    }
    headers = {"X-Elastic-Product": "Elasticsearch"}
    cluster.answers |= {path: (200, headers, json.dumps(answer).encode()) for path, answer in told.items()}


def _gateway(cluster: FakeCluster, proxy: FaultyProxy, drawn: random.Random, rounds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        gateways = []
        for kind in _KINDS:
            chosen = gateway_settings(proxy.url, {"engine.timeout_ms": int(_TIMEOUT_S * 1000)}, kind)
            url, _ = stack.enter_context(serving(StandIn(), chosen))
            client = stack.enter_context(httpx2.Client(base_url=url, timeout=20, trust_env=False))
            gateways.append(client)

        def search(at: int, which: frozenset[int] | None) -> tuple[str | None, bool]:
            return searched(drawn.choice(gateways), drawn, proxy, which)

        for fault in FAULTS:
            tally, note = tried(fault, search, proxy, drawn, rounds, _LONGEST_GATEWAY_S, "the cluster's error")
            yield tally.row(_PART, f"behind the gateway: {fault}", note)
        yield _wrong_certificate(drawn, rounds)


def searched(
    client: httpx2.Client, drawn: random.Random, proxy: FaultyProxy, which: frozenset[int] | None
) -> tuple[str | None, bool]:
    """What was lost in a search of the gateway, and whether it brought hits.

    It asks for places 2 to 4. The first stage orders by id, and the reranker moves ids 2, 5, 8 and 11 to the top.

    Args:
        client: of the gateway.
        drawn: says how it asks.
        proxy: between gateway and cluster.
        which: requests that are hit, as ``FaultyProxy.begin`` takes them.
    """
    body: dict[str, Any] = {"query": {"match": {"text": "cats"}}, **_PAGE}
    if drawn.random() < 0.4:
        # The texts are one more request.
        body["_source"] = False
    many = drawn.random() < 0.3
    try:
        if many:
            lines = f"{{}}\n{json.dumps(body)}\n" * 2
            headers = {"Content-Type": "application/x-ndjson"}
            answer = client.post("/books/_msearch", content=lines, headers=headers)
        else:
            answer = client.post("/books/_search", json=body)
    except httpx2.RemoteProtocolError:
        # The cluster's own answer broke off, and so does ours: no caller takes half for whole.
        return (None if which is None or 1 in which or 0 in which else "the connection was cut"), False
    if answer.status_code == 200:
        return _read(answer, proxy, many)
    told = f"status {answer.status_code}: {answer.text[:80]}"
    if answer.status_code not in (429, 502, 503, 504):
        return told, False
    if which is not None and 0 not in which and answer.status_code in (502, 504):
        return f"a fault of what only the gateway asked for: {told}", False
    return None, False


def _read(answer: httpx2.Response, proxy: FaultyProxy, many: bool) -> tuple[str | None, bool]:
    try:
        found = answer.json()
        pages = [one["hits"]["hits"] for one in (found["responses"] if many else [found])]
    except (ValueError, KeyError, TypeError):
        own = proxy.fault in ("cut JSON", "200 with a login page's HTML") and proxy.faulted
        return (None if own else f"an answer without hits: {answer.text[:80]}"), False
    flags = answer.headers["X-Reranked"].split(",")
    for hits, flag in zip(pages, flags * (2 if len(flags) < len(pages) else 1), strict=True):
        ids = [one["_id"] for one in hits]
        # Those with the query's word first, each group in the first stage's order.
        wanted = ["5", "8", "11"] if flag.strip() == "true" else ["1", "2", "3"]
        if ids != wanted:
            return f"hits {ids} of an answer marked {flag}", True
    return None, True


def _wrong_certificate(drawn: random.Random, rounds: int) -> Row:
    """The cluster shows a certificate that nobody here has signed."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        certificate, trusted = Path(folder) / "other.pem", Path(folder) / "trusted.pem"
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        trustme.CA().cert_pem.write_to_path(str(trusted))
        with serving(StandIn(), load_settings(options={"serve.at_once": 1}, environment={}),
                     certificate=certificate) as (secure, _):  # fmt: skip
            chosen = gateway_settings(secure, {"engine.ca_certs": str(trusted), "engine.timeout_ms": 2000})
            with serving(StandIn(), chosen) as (url, _), httpx2.Client(base_url=url, trust_env=False) as client:
                for _ in range(rounds):
                    answer = client.post(drawn.choice(["/books/_search", "/_msearch", "/books/_count"]), json={})
                    well = answer.status_code == 502 and "certificate" in answer.json()["error"]["reason"].lower()
                    tally.add(None if well else f"status {answer.status_code}: {answer.text[:80]}")
    return tally.row(_PART, "behind the gateway: a certificate of another authority", "nothing was sent there")


def _engine(cluster: FakeCluster, proxy: FaultyProxy, drawn: random.Random, rounds: int) -> Iterator[Row]:
    def search(at: int, which: frozenset[int] | None) -> tuple[str | None, bool]:
        return _found(proxy.url, _KINDS[at % 2])

    for fault in FAULTS:
        tally, note = tried(
            fault,
            search,
            proxy,
            drawn,
            rounds,
            _LONGEST_ENGINE_S,
            "one clear line",
            before=lambda at: speaks_as(cluster, _KINDS[at % 2]),
        )
        yield tally.row(_PART, f"searched here: {fault}", note)


def tried(
    fault: str,
    search: Callable[[int, frozenset[int] | None], tuple[str | None, bool]],
    proxy: FaultyProxy,
    drawn: random.Random,
    rounds: int,
    longest: float,
    otherwise: str,
    timeout_s: float = _TIMEOUT_S,
    before: Callable[[int], None] = lambda at: None,
) -> tuple[Tally, str]:
    """Searches while the proxy has a fault, and their figures.

    Args:
        fault: of the proxy.
        search: given its number and the requests that are hit: what was lost, and whether it brought hits.
        proxy: before the cluster.
        drawn: says which requests are hit.
        rounds: searches.
        longest: seconds that one may take.
        otherwise: what comes where no hits do.
        timeout_s: what ``engine.timeout_ms`` says.
        before: called before each, while there is no fault.
    """
    tally, whole, slowest = Tally(), 0, 0.0
    for at in range(rounds):
        before(at)
        which = None if fault == "refuses connections" else drawn.choice(_WHICH)
        proxy.begin(fault, which)
        began = time.monotonic()
        lost, hits = search(at, which)
        seconds = time.monotonic() - began
        if lost is None and seconds > longest:
            lost = f"{seconds:.1f} s with engine.timeout_ms = {timeout_s * 1000:g}"
        whole, slowest = whole + hits, max(slowest, seconds)
        tally.add(lost)
        proxy.begin(None)
    return tally, f"{whole} answers with hits, the rest {otherwise}; {slowest:.1f} s at most"


def _found(url: str, kind: str) -> tuple[str | None, bool]:
    """What was lost in a search of the engine, and whether it brought hits."""
    options = {"engine.kind": kind, "engine.url": url, "engine.index": "books", "engine.retry_ms": _RETRY_S * 1000}
    chosen = load_settings("/dev/null", {**options, "engine.timeout_ms": int(_TIMEOUT_S * 1000)}, {})
    try:
        with closing(open_engine(chosen)) as engine:
            ids = [one.id for one in engine.search("cats", 8)]
    except RhConnectorError as error:
        return (f"the message is not one line: {error}" if "\n" in str(error) else None), False
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:150], False
    return (None if ids == [str(at) for at in range(8)] else f"hits {ids}"), True
