"""Elasticsearch's inference API, after its source: no real one is published.

Modelled: ``HuggingFaceRerankRequestEntity`` and ``HuggingFaceRerankResponseEntity`` (request, types of index and
score), ``HuggingFaceResponseHandler`` (429, 502 and 503 are repeated, other statuses are not), the probe of
``hugging_face``'s ``PUT`` (query "test query", input ["how big"]), ``CustomRequest`` and ``ValidatingSubstitutor``
(placeholders become JSON; the secret's stands in documents too; one that is left over fails the call),
``RerankResponseParser`` (``$.list[*].name``; a missing index is the place), of which only 429 is repeated, and that
``GET`` shows no secrets. Searches: ``retriever_double``.
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.writeback.retriever_double import Refused, search

__all__ = ["InferenceDouble", "inferring"]

_REPEATED = {"hugging_face": (429, 502, 503), "custom": (429,)}
_SECRETS = ("api_key", "secret_parameters")


class InferenceDouble(ThreadingHTTPServer):
    """A cluster with one index of texts, in the order of their shard."""

    daemon_threads = True

    def __init__(self, texts: dict[str, str], version: str, patience: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.texts = texts
        self.version = version
        self.patience = patience
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.rulesets: dict[str, list[str]] = {}
        self.calls = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def infer(self, name: str, query: str, texts: list[str]) -> list[float]:
        """Scores of the texts, by the endpoint of that name."""
        return self._infer(self._endpoint(name), query, texts)

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What the REST layer does."""
        if path == "/":
            return {"version": {"number": self.version}, "tagline": "You Know, for Search"}
        if path.endswith("/_search"):
            return search(self.texts, body, self.infer, self.rulesets)
        name = path.removeprefix("/_inference/rerank/")
        if method == "PUT":
            if name in self.endpoints:
                raise Refused(400, "resource_already_exists_exception", f"Inference endpoint [{name}] already exists")
            if body["service"] == "hugging_face":
                self._infer(body, "test query", ["how big"])
            self.endpoints[name] = body
        endpoint = self._endpoint(name)
        if method == "DELETE":
            del self.endpoints[name]
            return {"acknowledged": True}
        if method == "POST":
            scores = self._infer(endpoint, body["query"], body["input"])
            ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
            return {"rerank": [{"index": index, "relevance_score": score} for index, score in ranked]}
        shown = {key: value for key, value in endpoint["service_settings"].items() if key not in _SECRETS}
        return {"endpoints": [{"inference_id": name, "task_type": "rerank", **endpoint, "service_settings": shown}]}

    def _endpoint(self, name: str) -> dict[str, Any]:
        if name not in self.endpoints:
            raise Refused(404, "resource_not_found_exception", f"Inference endpoint not found [{name}]")
        return self.endpoints[name]

    def _infer(self, endpoint: dict[str, Any], query: str, texts: list[str]) -> list[float]:
        service, settings = endpoint["service"], endpoint["service_settings"]
        if service == "custom":
            body, headers = _filled(settings, query, texts)
        else:
            plain = {"texts": texts, "query": query, **_return_text(endpoint)}
            body = json.dumps(plain)
            headers = {"Authorization": f"Bearer {settings['api_key']}", "Content-Type": "application/json"}
        answer = self._post(settings["url"], body, headers, _REPEATED[service])
        if service == "custom":
            answer = _parsed(settings["response"]["json_parser"], answer)
        return _scores(answer, len(texts))

    def _post(self, url: str, body: str, headers: Mapping[str, str], repeated: tuple[int, ...]) -> Any:
        until = time.monotonic() + self.patience
        while True:
            self.calls += 1
            try:
                request = urllib.request.Request(url, body.encode(), dict(headers))
                with urllib.request.urlopen(request, timeout=30) as got:
                    return json.load(got)
            except urllib.error.HTTPError as error:
                said = error.read().decode()
                if error.code not in repeated or time.monotonic() > until:
                    reason = f"Received an unsuccessful status code, status [{error.code}]: {said}"
                    raise Refused(error.code, "status_exception", reason) from None
                time.sleep(0.1)
            except OSError as error:
                raise Refused(500, "connect_exception", f"Connection refused: {error}") from None


def _return_text(endpoint: Mapping[str, Any]) -> dict[str, bool]:
    asked = endpoint.get("task_settings", {}).get("return_documents")
    return {} if asked is None else {"return_text": asked}


def _filled(settings: Mapping[str, Any], query: str, texts: list[str]) -> tuple[str, dict[str, str]]:
    secrets = settings.get("secret_parameters", {})
    values = {"query": json.dumps(query), "input": json.dumps(texts)}

    def fill(template: str, given: Mapping[str, str]) -> str:
        for name, value in given.items():
            template = template.replace(f"${{{name}}}", value)
        return template

    body = fill(
        fill(settings["request"], values), {name: json.dumps(secret)[1:-1] for name, secret in secrets.items()}
    )
    if left := re.search(r"\$\{.*?\}", body):
        raise Refused(400, "illegal_argument_exception", f"Found placeholder [{left[0]}] after substitution call")
    return body, {name: fill(value, secrets) for name, value in settings["headers"].items()}


def _parsed(parser: Mapping[str, str], answer: Any) -> list[dict[str, Any]]:
    def column(path: str) -> list[Any]:
        matched = re.fullmatch(r"\$\.(\w+)\[\*\]\.(\w+)", path)
        assert matched is not None, path
        return [entry[matched[2]] for entry in answer[matched[1]]]

    scores = column(parser["relevance_score"])
    places = column(parser["reranked_index"]) if "reranked_index" in parser else range(len(scores))
    return [{"index": index, "score": score} for index, score in zip(places, scores, strict=True)]


def _scores(answer: Any, count: int) -> list[float]:
    scores: dict[int, float] = {}
    for entry in answer:
        if type(entry["index"]) is not int or type(entry["score"]) not in (int, float):
            raise Refused(400, "parsing_exception", "Failed to parse object")
        scores[entry["index"]] = float(entry["score"])
    if sorted(scores) != list(range(count)):
        raise Refused(500, "illegal_state_exception", "Reranker input document count and feature count mismatch")
    return [scores[place] for place in range(count)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: InferenceDouble

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
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
