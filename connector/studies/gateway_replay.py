"""Whether the gateway changes what it must not: ``python -m connector.studies.gateway_replay --help``.

Searches made at random go to the cluster and through the gateway before it. Totals, aggregations and all else must be
equal, and each hit must be the cluster's own. Only the order of hits inside the window may differ. A page that was
not reranked must be the cluster's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode

import click
import httpx2

from connector.studies.search_bodies import INDEX, NORMALIZATION, Searched, documents, mapping, searches

__all__ = ["Fault", "Replay", "filled", "replay"]

# What differs from answer to answer; "profile" has times in it.
_CHANGING = ("took", "profile")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One difference.

    Attributes:
        what: ``status``, ``total``, ``aggregations``, ``hits``, or another key of the answer.
        path, body: the request, with its URL parameters, as it was sent.
        cluster, gateway: what the two said.
    """

    what: str
    path: str
    body: str
    cluster: Any
    gateway: Any


@dataclass(slots=True)
class Replay:
    """What was found.

    Attributes:
        bodies: requests that were sent.
        searches: searches in them; an ``_msearch`` has several.
        reranked: searches that came back reranked.
        refused: searches that the cluster refuses; the gateway must refuse them alike.
        answered: searches that the cluster refuses and the gateway answers: pages of hybrid queries behind the first,
            for which the cluster wants ``pagination_depth``.
        status_500: answers with that status that the cluster did not give.
        faults: all differences, in the order of the requests.
    """

    bodies: int = 0
    searches: int = 0
    reranked: int = 0
    refused: int = 0
    answered: int = 0
    status_500: int = 0
    faults: list[Fault] = field(default_factory=list)

    def differences(self, what: str) -> int:
        """How many of that kind."""
        return sum(fault.what == what for fault in self.faults)

    def summary(self) -> Json:
        """Counts alone."""
        told = {name: value for name, value in asdict(self).items() if name != "faults"}
        kinds = ("status", "total", "aggregations", "hits")
        counts = {f"{what}_differ": self.differences(what) for what in kinds}
        return {**told, **counts, "others_differ": len(self.faults) - sum(counts.values())}


@contextmanager
def filled(cluster: str, kind: str) -> Iterator[None]:
    """The index, and OpenSearch's pipeline for hybrid queries, while the block runs.

    Raises:
        httpx2.HTTPError: the cluster did not take it.
    """
    lines = "".join(f"{json.dumps({'index': {'_id': name}})}\n{json.dumps(source)}\n" for name, source in documents())
    phases = [{"normalization-processor": {"normalization": {"technique": "min_max"}}}]
    with httpx2.Client(base_url=cluster, timeout=60) as client:
        client.delete(f"/{INDEX}")
        client.put(f"/{INDEX}", json=mapping(kind)).raise_for_status()
        try:
            if kind == "opensearch":
                pipeline = {"phase_results_processors": phases}
                client.put(f"/_search/pipeline/{NORMALIZATION}", json=pipeline).raise_for_status()
            headers = {"Content-Type": "application/x-ndjson"}
            told = client.post(f"/{INDEX}/_bulk?refresh=true", content=lines, headers=headers).raise_for_status()
            assert not told.json()["errors"], told.text[:500]
            yield
        finally:
            client.delete(f"/{INDEX}")
            if kind == "opensearch":
                client.delete(f"/_search/pipeline/{NORMALIZATION}")


def replay(cluster: str, gateway: str, kind: str, count: int, seed: int = 0, key: str | None = None) -> Replay:
    """Send so many requests to both and compare. The index must be there: ``filled``.

    Args:
        cluster, gateway: their URLs.
        kind: ``opensearch`` or ``elasticsearch``.
        count, seed: of the requests.
        key: of the service; None: it asks for none.
    """
    found = Replay()
    headers = {} if key is None else {"X-Api-Key": key}
    with (
        httpx2.Client(base_url=cluster, timeout=60) as direct,
        httpx2.Client(base_url=gateway, timeout=300, headers=headers) as through,
    ):
        for asked in searches(kind, count, seed):
            _Compared(found, asked, direct, through).run()
    return found


class _Compared:
    """One request, sent to both."""

    def __init__(self, found: Replay, asked: Searched, direct: httpx2.Client, through: httpx2.Client) -> None:
        self._found = found
        self._asked = asked
        self._direct = direct
        self._through = through
        self._path = f"{asked.path}?{urlencode(asked.parameters)}"

    def run(self) -> None:
        found, content = self._found, self._asked.content()
        kind = "x-ndjson" if self._asked.many else "json"
        headers = {"Content-Type": f"application/{kind}"}
        plain = self._direct.post(self._path, content=content, headers=headers)
        told = self._through.post(self._path, content=content, headers=headers)
        found.bodies += 1
        found.searches += len(self._asked.searches)
        found.status_500 += told.status_code == 500 != plain.status_code
        if not self._asked.many and self._is_page_of_hybrid(0, plain.status_code, told.status_code):
            return
        if not self._same("status", plain.status_code, told.status_code):
            return
        if "json" not in plain.headers.get("content-type", ""):
            self._same("text", _lasting(plain.text), _lasting(told.text))
            return
        marks = told.headers.get("x-reranked", "").split(",")
        if not self._asked.many:
            self._compare(0, plain.json(), told.json(), marks[0] == "true", plain.status_code)
            return
        answers = plain.json().get("responses", []), told.json().get("responses", [])
        if not self._same("responses", len(answers[0]), len(answers[1])):
            return
        for at, (one, other) in enumerate(zip(*answers, strict=True)):
            status = one.get("status", 200)
            if not self._is_page_of_hybrid(at, status, other.get("status", 200)):
                self._compare(at, one, other, at < len(marks) and marks[at] == "true", status)

    def _is_page_of_hybrid(self, at: int, plain: int, told: int) -> bool:
        """Whether it is one that the gateway may answer though the cluster does not."""
        start, _ = self._page(at)
        hybrid = "hybrid" in self._asked.searches[at][1].get("query", {})
        found = hybrid and start > 0 and (plain, told) == (400, 200)
        self._found.answered += found
        return found

    def _page(self, at: int) -> tuple[int, int]:
        """From and size, as the cluster takes them."""
        body = self._asked.searches[at][1]
        start, size = (int(self._asked.parameters.get(name, body.get(name, least))) for name, least in _PAGE)
        return start, size

    def _compare(self, at: int, plain: Json, told: Json, reranked: bool, status: int) -> None:
        self._found.refused += status >= 400
        self._found.reranked += reranked
        window = told.pop("rerank", {}).get("window", 0)
        for name in sorted({*plain, *told} - {*_CHANGING, "hits"}):
            self._same(name, plain.get(name), told.get(name))
        self._same("profile", "profile" in plain, "profile" in told)
        own, page = plain.get("hits"), told.get("hits")
        if not isinstance(own, dict) or not isinstance(page, dict):
            self._same("hits", own, page)
            return
        self._same("total", own.get("total"), page.get("total"))
        if not reranked:
            self._same("hits", own.get("hits"), page.get("hits"))
            self._same("max_score", own.get("max_score"), page.get("max_score"))
            return
        self._compare_page(at, own.get("hits", []), page.get("hits", []), window)

    def _compare_page(self, at: int, own: list[Json], page: list[Json], window: int) -> None:
        """A reranked page: as many hits, each the cluster's own, once; those behind the window in their places."""
        start, size = self._page(at)
        wide = self._wide(at, max(window, start + size))
        known = {_identity(hit): hit for hit in wide}
        if not self._same("hits", len(own), len(page)):
            return
        self._same("hits", len(page), len({_identity(hit) for hit in page}))
        self._same("hits", [known.get(_identity(hit)) for hit in page], page)
        behind = max(window - start, 0)
        self._same(
            "hits",
            [_identity(hit) for hit in wide[start + behind : start + size]],
            [_identity(hit) for hit in page[behind:]],
        )

    def _wide(self, at: int, size: int) -> list[Json]:
        """The cluster's own hits of the whole window."""
        index, body = self._asked.searches[at]
        parameters = {**self._asked.parameters, "from": "0", "size": str(size)}
        whole = {name: value for name, value in body.items() if name not in ("from", "size")}
        answer = self._direct.post(f"/{index}/_search?{urlencode(parameters)}", json=whole)
        hits: list[Json] = answer.json()["hits"].get("hits", [])
        return hits

    def _same(self, what: str, plain: Any, told: Any) -> bool:
        if plain == told:
            return True
        body = self._asked.content().decode()
        kind = "aggregations" if what in ("aggregations", "aggs") else what
        self._found.faults.append(Fault(kind, self._path, body, plain, told))
        return False


_PAGE = (("from", 0), ("size", 10))


def _identity(hit: Mapping[str, Any]) -> tuple[str, str]:
    return str(hit.get("_index")), str(hit.get("_id"))


def _lasting(text: str) -> list[str]:
    """Lines of YAML without those that differ from answer to answer."""
    lines = text.partition("\nprofile:")[0].splitlines()
    return [line for line in lines if not line.strip().startswith(("took", '"took"'))]


@click.command()
@click.option(
    "--cluster", required=True, help="URL of OpenSearch or Elasticsearch; an index is made there and removed."
)
@click.option("--gateway", required=True, help="URL of rh-connector serve in front of it.")
@click.option("--kind", type=click.Choice(["opensearch", "elasticsearch"]), default="opensearch", show_default=True)
@click.option("--count", type=click.IntRange(1), default=500, show_default=True, help="Requests.")
@click.option("--seed", default=0, show_default=True)
@click.option("--key", help="One of serve.api_keys.")
def main(cluster: str, gateway: str, kind: str, count: int, seed: int, key: str | None) -> None:
    """Print the counts as one line of JSON, and on standard error each difference."""
    nodes = httpx2.get(f"{cluster}/_nodes/_local", timeout=60).raise_for_status().json()["nodes"]
    (version,) = {node["version"] for node in nodes.values()}
    with filled(cluster, kind):
        found = replay(cluster, gateway, kind, count, seed, key)
    for fault in found.faults:
        click.echo(json.dumps(asdict(fault)), err=True)
    click.echo(json.dumps({"cluster": f"{kind} {version}", "seed": seed, **found.summary()}))
    sys.exit(1 if found.faults or found.status_500 else 0)


if __name__ == "__main__":
    main()
