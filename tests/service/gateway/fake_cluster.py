"""A server that answers searches as a cluster does, from a list of hits, and keeps what it was asked."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connector.service.server import listen
from tests.service.waiting import wait_until


@dataclass
class Asked:
    """One request, as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def parameters(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.target.partition("?")[2]).items()}


@dataclass
class FakeCluster:
    """An ASGI application.

    Attributes:
        hits: JSON texts, best first.
        texts: _id -> _source, for searches that ask for documents although the hits are without.
        rest: further members of an answer, a JSON text that begins with a comma.
        largest: most hits of one page; above, the search is refused.
        counts_pages: ``hits.total`` is that of the page, as HybridTopScoreDocCollector stops to count.
        answers: path -> what is answered there instead: status, headers, body.
        release: searches wait for this event.
    """

    hits: list[str] = field(default_factory=list)
    texts: dict[str, Any] = field(default_factory=dict)
    rest: str = ""
    largest: int = 10_000
    counts_pages: bool = False
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        self.asked.append(Asked(request.method, target, dict(request.headers), body))
        path = scope["path"]
        if path in self.answers:
            status, headers, content = self.answers[path]
            response = Response(content, status, headers)
        elif path.endswith("/_msearch"):
            response = self._msearch(body.decode("utf-8", "surrogateescape"))
        elif path.endswith("/_search"):
            status, text = self._search(dict(parse_qsl(query)), body.decode("utf-8", "surrogateescape"))
            response = _json(text, status)
        else:
            response = _json('{"ok" : true}', 200)
        await response(scope, receive, send)

    def _search(self, parameters: dict[str, str], text: str) -> tuple[int, str]:
        body = json.loads(text or parameters.get("source") or "{}")
        start = int(parameters.get("from", body.get("from", 0)))
        size = int(parameters.get("size", body.get("size", 10)))
        if start + size > self.largest:
            cause = {"type": "illegal_argument_exception", "reason": "Result window is too large"}
            return 400, json.dumps({"error": {"root_cause": [cause], **cause}, "status": 400})
        narrow = [window for window in _rank_windows(body.get("retriever")) if size > window]
        if narrow and ("size" in body or "size" in parameters):
            reason = f"requires [rank_window_size: {narrow[0]}] be greater than or equal to [size: {size}]"
            return 400, json.dumps({"error": {"type": "action_request_validation_exception", "reason": reason}})
        hits = self.hits[start : start + size]
        if self.texts and body.get("_source") == ["text"]:
            plain = [json.loads(hit) for hit in hits]
            hits = [json.dumps({**hit, "_source": self.texts[hit["_id"]]}) for hit in plain]
        total = f'{{"value":{start + size if self.counts_pages else len(self.hits)},"relation":"eq"}}'
        joined = " , ".join(hits)
        return 200, f'{{"took":1,"hits":{{"total":{total},"max_score": 9.50 ,"hits" : [ {joined} ]}}{self.rest}}}\n'

    def _msearch(self, text: str) -> Response:
        lines = text.split("\n")
        assert lines.pop() == "" and len(lines) % 2 == 0
        answers = []
        for body in lines[1::2]:
            status, answer = self._search({}, body)
            if status == 200:
                answer = answer.rstrip("\n").removesuffix("}") + ',"status":200}'
            answers.append(answer)
        return _json(f'{{"took":3,"responses":[{",".join(answers)}]}}', 200)


def _rank_windows(retriever: Any) -> list[int]:
    """What CompoundRetrieverBuilder.validate holds ``size`` against: of each retriever that combines others."""
    if not isinstance(retriever, dict):
        return []
    ((kind, inner),) = retriever.items()
    if kind in ("standard", "knn"):
        return []
    inside = inner.get("retrievers") or [inner["retriever"]]
    deeper = [window for one in inside for window in _rank_windows(one.get("retriever", one))]
    if kind == "rescorer":
        return [int(inner["rescore"].get("window_size", 10)), *deeper]
    return [int(inner.get("rank_window_size", 10)), *deeper]


def _json(text: str, status: int) -> Response:
    headers = {"X-Elastic-Product": "Elasticsearch"}
    return Response(text.encode("utf-8", "surrogateescape"), status, headers, "application/json")


@contextmanager
def running_cluster() -> Iterator[FakeCluster]:
    """A fake cluster on a free loopback port."""
    cluster = FakeCluster()
    config = uvicorn.Config(cluster, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            cluster.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            yield cluster
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def hit(identity: int | str, score: float | str | None, text: str | None = None, more: str = "") -> str:
    """A hit as a cluster writes it; ``more``: further members, beginning with a comma."""
    source = "" if text is None else f',"_source":{json.dumps({"text": text})}'
    number = "null" if score is None else score
    return f'{{"_index":"books","_id":"{identity}","_score":{number}{source}{more}}}'
