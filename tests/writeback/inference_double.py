"""Elasticsearch's inference API and its ``text_similarity_reranker``, after its source: no real one is published.

Modelled: ``HuggingFaceRerankRequestEntity`` and ``HuggingFaceRerankResponseEntity`` (request, types of index and
score), ``HuggingFaceResponseHandler`` (429, 502 and 503 are repeated, other statuses are not), the probe of ``PUT``
(query "test query", input ["how big"]), ``TextSimilarityRankFeaturePhaseRankCoordinatorContext`` (texts in shard
order, not rank order; as many scores as texts; ``max(s, 0) + min(exp(s), 1)``) and ``allow_rerank_failures``.
"""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["InferenceDouble", "inferring"]

_REPEATED = (429, 502, 503)


class Refused(Exception):
    """An error answer of the cluster."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.body = {"error": {"type": kind, "reason": reason, "root_cause": []}, "status": status}


class InferenceDouble(ThreadingHTTPServer):
    """A cluster with one index of texts, in the order of their shard."""

    daemon_threads = True

    def __init__(self, texts: dict[str, str], version: str, patience: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.texts = texts
        self.version = version
        self.patience = patience
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.calls = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def infer(self, endpoint: dict[str, Any], query: str, texts: list[str]) -> list[float]:
        """One call to the service, repeated as Elasticsearch does."""
        settings = endpoint["service_settings"]
        body = json.dumps({"texts": texts, "query": query, "return_text": False}).encode()
        headers = {"Authorization": f"Bearer {settings['api_key']}", "Content-Type": "application/json"}
        until = time.monotonic() + self.patience
        while True:
            self.calls += 1
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(settings["url"], body, headers), timeout=30
                ) as got:
                    return self._scores(json.load(got), len(texts))
            except urllib.error.HTTPError as error:
                said = json.load(error)["error"]
                assert isinstance(said, str), "Elasticsearch reads error as a string"
                if error.code not in _REPEATED or time.monotonic() > until:
                    raise Refused(error.code, "status_exception", f"Received an error status: {said}") from None
                time.sleep(0.1)
            except OSError as error:
                raise Refused(500, "connect_exception", f"Connection refused: {error}") from None

    @staticmethod
    def _scores(answer: Any, count: int) -> list[float]:
        scores: dict[int, float] = {}
        for entry in answer:
            if type(entry["index"]) is not int or type(entry["score"]) not in (int, float):
                raise Refused(400, "parsing_exception", "Failed to parse object")
            scores[entry["index"]] = float(entry["score"])
        if sorted(scores) != list(range(count)):
            raise Refused(500, "illegal_state_exception", "Reranker input document count and feature count mismatch")
        return [scores[place] for place in range(count)]

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """A ``text_similarity_reranker`` over a ``match``."""
        asked = body["retriever"]["text_similarity_reranker"]
        ((name, words),) = asked["retriever"]["standard"]["query"]["match"].items()
        assert name == asked["field"]
        wanted = set(words.lower().split())
        counts = {key: sum(word in wanted for word in text.lower().split()) for key, text in self.texts.items()}
        first = sorted((key for key in counts if counts[key]), key=lambda key: -counts[key])
        window = set(first[: asked.get("rank_window_size", 10)])
        in_shard_order = [key for key in self.texts if key in window]
        try:
            endpoint = self.endpoints[asked["inference_id"]]
            raw = self.infer(endpoint, asked["inference_text"], [self.texts[key] for key in in_shard_order])
        except Refused:
            if not asked.get("allow_rerank_failures"):
                raise
            hits = [(key, float(counts[key])) for key in first]
        else:
            scored = {key: max(s, 0.0) + min(math.exp(s), 1.0) for key, s in zip(in_shard_order, raw, strict=True)}
            hits = sorted(scored.items(), key=lambda pair: -pair[1])
        shown = [{"_index": "i", "_id": key, "_score": score} for key, score in hits[: body["size"]]]
        return {"hits": {"total": {"value": len(first), "relation": "eq"}, "hits": shown}}

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What the REST layer does."""
        if path == "/":
            return {"version": {"number": self.version}, "tagline": "You Know, for Search"}
        if path.endswith("/_search"):
            return self.search(body)
        name = path.removeprefix("/_inference/rerank/")
        if method == "PUT":
            if name in self.endpoints:
                raise Refused(400, "resource_already_exists_exception", f"Inference endpoint [{name}] already exists")
            if body["service"] == "hugging_face":
                self.infer(body, "test query", ["how big"])
            self.endpoints[name] = body
        if name not in self.endpoints:
            raise Refused(404, "resource_not_found_exception", f"Inference endpoint not found [{name}]")
        if method == "DELETE":
            del self.endpoints[name]
            return {"acknowledged": True}
        if method == "POST":
            scores = self.infer(self.endpoints[name], body["query"], body["input"])
            ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
            return {"rerank": [{"index": index, "relevance_score": score} for index, score in ranked]}
        kept = self.endpoints[name]
        hidden = {key: value for key, value in kept["service_settings"].items() if key != "api_key"}
        return {"endpoints": [{"inference_id": name, "task_type": "rerank", **kept, "service_settings": hidden}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: InferenceDouble

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path))
        try:
            status, value = 200, self.server.answer(self.command, self.path, json.loads(sent) if sent else None)
        except Refused as refused:
            status, value = refused.status, refused.body
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def inferring(texts: dict[str, str], version: str = "9.1.0", patience: float = 1.0) -> Iterator[InferenceDouble]:
    """One that listens on loopback; refused calls are repeated for ``patience`` seconds (Elasticsearch: 30)."""
    double = InferenceDouble(texts, version, patience)
    thread = threading.Thread(target=double.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.shutdown()
        double.server_close()
        thread.join(10)
