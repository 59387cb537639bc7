"""The engine in front of an OpenSearch or Elasticsearch index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Self
from urllib.parse import quote

from connector.documents import Document, Hit, clean_text
from connector.engines.cluster.bulk import BulkWriter
from connector.engines.cluster.connection import ClusterError, Connection, MissingIndex
from connector.engines.cluster.query import TextField, own_query, text_fields, words_query
from connector.engines.cluster.retrievers import rank_window
from connector.engines.cluster.retrying import Retrying
from connector.engines.cluster.scrolls import IncompleteScroll, scrolled
from connector.engines.engine import IndexReport
from connector.errors import EngineError

__all__ = ["ClusterEngine"]

# index.max_result_window of both products.
_WINDOW = 10_000
# Further hits that are looked at where scores are equal at the cut.
_SPARE = 16
_PAGE = 500
_MAPPING_SECONDS = 60.0
_LEAST_WORDS = 8
_DEFAULT_PIPELINE = "index.search.default_pipeline"


class ClusterEngine:
    """One index, alias or pattern of a cluster. Thread-safe for searching.

    Args:
        connection: to the cluster.
        index: its name.
        weights: field -> weight in searches; empty: all text fields.
        query_json: the user's own query (see ``own_query``); None: the words in the fields.
        reranking_pipeline: OpenSearch's search pipeline that reranks. What is fetched here is ranked here, so our
            searches go past it where the index has it by default.
        retry_ms: how long requests are repeated that the cluster refuses for now.
    """

    def __init__(
        self,
        connection: Connection,
        index: str,
        weights: Mapping[str, float] | None = None,
        *,
        query_json: str | None = None,
        reranking_pipeline: str | None = None,
        retry_ms: int = 30_000,
    ) -> None:
        self.connection = connection
        self._index = index
        self._path = f"/{quote(index, safe='*,-_.')}"
        self._weights = dict(weights or {})
        self._query_json = query_json
        self._retrying = Retrying(retry_ms / 1000)
        self._reranking_pipeline = reranking_pipeline
        self._fields: tuple[float, list[TextField]] | None = None
        self._past: tuple[float, dict[str, str]] | None = None
        self._greeted = False

    def search(self, query: str, size: int) -> list[Hit]:
        """See ``Engine.search``. Never more than the cluster gives: 10,000, or a query's ``rank_window_size``."""
        if size <= 0:
            return []
        most = min(_WINDOW, self._rank_window())
        wanted = min(size, most)
        limit = min(wanted + _SPARE, most)
        while True:
            found = self._hits(query, limit)
            if len(found) < limit or limit == most or found[-1]["_score"] != found[wanted - 1]["_score"]:
                break
            # Which of equally good hits a cluster leaves out depends on shards and segments: look at them all.
            limit = min(2 * limit, most)
        hits = [Hit(hit["_id"], _number(hit.get("_score")), hit.get("_source") or {}) for hit in found]
        return sorted(hits, key=lambda hit: (-(hit.score or 0.0), hit.id))[:wanted]

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """See ``Engine.get``."""
        found: dict[str, Document] = {}
        wanted = [identity for identity in dict.fromkeys(ids) if identity and clean_text(identity) == identity]
        self._check_there(bool(wanted))
        for start in range(0, len(wanted), _PAGE):
            part = wanted[start : start + _PAGE]
            body = {"query": {"ids": {"values": part}}, "size": len(part), "track_total_hits": False}
            for hit in self.ask(body)["hits"]["hits"]:
                found[hit["_id"]] = Document(hit["_id"], hit.get("_source") or {})
        return found

    def documents(self) -> Iterator[Document]:
        """See ``Engine.documents``. A scroll that did not bring all is begun anew, while that brings new ones."""
        seen: set[tuple[str, str]] = set()
        while True:
            before = len(seen)
            try:
                for hit in chain.from_iterable(self.pages({"query": {"match_all": {}}, "size": _PAGE})):
                    name = hit["_index"], hit["_id"]
                    if name not in seen:
                        seen.add(name)
                        yield Document(hit["_id"], hit.get("_source") or {})
                return
            except IncompleteScroll:
                if len(seen) == before:
                    raise
            except ClusterError as error:
                if _is_missing(error):
                    return
                raise

    def pages(self, body: Mapping[str, Any]) -> Iterator[list[Any]]:
        """All hits of a search as the index is now, ``size`` of them at a time, in no particular order.

        Args:
            body: the search, without an order.

        Raises:
            IncompleteScroll, EngineError: see ``scrolled``.
        """
        return scrolled(self.ask, self.connection, self._retrying, body)

    def index(
        self,
        documents: Iterable[Document],
        *,
        batch: int = 1000,
        committed: Callable[[IndexReport], None] | None = None,
    ) -> IndexReport:
        """See ``Engine.index``. A mapping is made with a new index and never changed afterwards."""
        self._make()
        writer = BulkWriter(self.connection, self._index, self._retrying)
        report, remaining = IndexReport(), iter(documents)
        try:
            while part := list(islice(remaining, batch)):
                done = writer.write(part, report.taken)
                report = IndexReport(
                    report.indexed + done.indexed, report.replaced + done.replaced, (*report.failures, *done.failures)
                )
                if committed is not None:
                    committed(report)
        finally:
            if report.indexed:
                # Searches see the documents from here on, also after an interruption.
                self.request("POST", "/_refresh")
        self._fields = None
        return report

    def count(self) -> int:
        """See ``Engine.count``."""
        try:
            # Not _count: a search pipeline that the index has by default fails at its answers.
            return int(self.ask({"size": 0, "track_total_hits": True})["hits"]["total"]["value"])
        except ClusterError as error:
            if _is_missing(error):
                return 0
            raise

    def ask(self, body: Mapping[str, Any], params: Mapping[str, str] | None = None) -> Any:
        """The answer of a search request; it goes past a search pipeline that reranks.

        Raises:
            EngineError: there is no such index, or the cluster refuses.
        """
        return self.request("POST", "/_search", body, {**self._past_reranking(), **(params or {})})

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """The answer of a request about the index: its path follows the index's; tried again as the settings say.

        Raises:
            EngineError: there is no such index, or the cluster refuses.
        """
        self._greet()
        try:
            return self._retrying(partial(self.connection.request, method, self._path + path, body, params))
        except ClusterError as error:
            if _is_missing(error):
                message = (
                    f"there is no index {self._index} at {self.connection.url}; make it with: "
                    f"rh-connector index SOURCE, or set engine.index"
                )
                raise MissingIndex(message, error.status, error.body) from None
            raise

    def close(self) -> None:
        """See ``Engine.close``."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hits(self, query: str, size: int) -> list[Any]:
        words = clean_text(query).split()
        while True:
            body = self._body(" ".join(words))
            try:
                hits = self.ask({**body, "size": size, "from": 0})["hits"]["hits"]
                return list(hits)
            except ClusterError as error:
                too_many = "too_many" in str(error.body) or "maxClauseCount" in str(error.body)
                if self._query_json is not None or not too_many or len(words) <= _LEAST_WORDS:
                    raise
                # A whole page of text as a query: its beginning says what it is about.
                words = words[: len(words) // 2]

    def _body(self, words: str) -> dict[str, Any]:
        if self._query_json is not None:
            return own_query(self._query_json, words)
        where = f"{self._index} at {self.connection.url}"
        return {"query": words_query(words, self._weights, self._text_fields(), where), "track_total_hits": False}

    def _rank_window(self) -> int:
        own = None if self._query_json is None else rank_window(own_query(self._query_json, ""))
        return _WINDOW if own is None else own

    def _text_fields(self) -> list[TextField]:
        now = time.monotonic()
        if self._fields is None or now - self._fields[0] > _MAPPING_SECONDS:
            self._fields = (now, text_fields(self.request("GET", "/_mapping")))
        return self._fields[1]

    def _check_there(self, asks: bool) -> None:
        if not asks:
            self.ask({"size": 0, "track_total_hits": False})

    def _past_reranking(self) -> dict[str, str]:
        if self._reranking_pipeline is None:
            return {}
        now = time.monotonic()
        if self._past is None or now - self._past[0] > _MAPPING_SECONDS:
            try:
                found = self.request("GET", f"/_settings/{_DEFAULT_PIPELINE}", None, {"flat_settings": "true"})
                names = {index["settings"].get(_DEFAULT_PIPELINE) for index in found.values()}
            except ClusterError as error:
                # Whoever may search need not be allowed to see settings.
                if error.status != 403:
                    raise
                names = set()
            self._past = (now, {"search_pipeline": "_none"} if self._reranking_pipeline in names else {})
        return self._past[1]

    def _greet(self) -> None:
        """Before the first request: a wrong product, release or client is told, rather than odd answers later."""
        if self._greeted:
            return
        try:
            self._retrying(lambda: self.connection.version)
        except ClusterError as error:
            # Whoever may search need not be allowed to ask for the version.
            if error.status != 403:
                raise
        self._greeted = True

    def _make(self) -> None:
        self._greet()
        # Both clients answer a HEAD with whether it is there.
        if self._retrying(partial(self.connection.request, "HEAD", self._path)):
            return
        if any(sign in self._index for sign in "*,"):
            raise EngineError(f"engine.index = {self._index}: name one index to write to")
        # Not every server has the English analyzer: it comes with a module.
        for analyzer in ("english", "standard"):
            try:
                self._retrying(partial(self.connection.request, "PUT", self._path, _new_index(analyzer)))
                return
            except ClusterError as error:
                if "resource_already_exists" in str(error.body):
                    return
                if analyzer == "standard" or "analyzer" not in str(error.body):
                    raise


def _new_index(analyzer: str) -> dict[str, Any]:
    text = {"type": "text", "analyzer": analyzer, "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    return {
        "mappings": {
            # The first document must not decide that a field of texts holds dates.
            "date_detection": False,
            "dynamic_templates": [{"texts": {"match_mapping_type": "string", "mapping": text}}],
            # So that the analyzer is known to exist before the first document comes.
            "properties": {"text": text, "title": text},
        }
    }


def _is_missing(error: ClusterError) -> bool:
    return error.status == 404 and "index_not_found" in str(error.body)


def _number(score: Any) -> float | None:
    return None if score is None else float(score)
