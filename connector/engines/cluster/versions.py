"""Which version of each document an index of a cluster shows: what is new, written again, or gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.engines.cluster.cluster_engine import ClusterEngine
from connector.engines.cluster.connection import ClusterError
from connector.engines.cluster.scrolls import WHOLE, whole_hits
from connector.errors import EngineError, MissingIndexError, SettingsError

__all__ = ["IndexVersions", "VersionedDocument"]

# Without their sources, hits are small.
_PAGE = 2_000
# index.max_result_window of both products.
_WINDOW = 10_000
_UUID = "index.uuid"


@dataclass(frozen=True, slots=True)
class VersionedDocument:
    """A document as searches show it.

    Attributes:
        name: its index and its id: an alias or a pattern may show the same id twice.
        version: differs whenever the document was written.
        fields: as they were stored.
    """

    name: str
    version: str
    fields: Mapping[str, Any]


class IndexVersions:
    """The versions of the documents of one index, alias or pattern.

    A version is the UUID of the index, the document's sequence number and its primary term: an index that was made
    anew counts its sequence numbers from 0 again.

    Args:
        engine: the index.

    Raises:
        EngineError: there is no such index, or the cluster failed; so does every method.
    """

    def __init__(self, engine: ClusterEngine) -> None:
        self._engine = engine
        try:
            found = engine.request("GET", f"/_settings/{_UUID}", None, {"flat_settings": "true"})
        except ClusterError as error:
            if error.status != 403:
                raise
            raise EngineError(
                f"{error}; following an index needs its UUID: give this user the right to see its settings "
                "(view_index_metadata, or indices:monitor/settings/get)"
            ) from None
        self._uuids = {name: index["settings"][_UUID] for name, index in found.items()}
        if not self._uuids:
            raise MissingIndexError(f"no index at {engine.connection.url} has the name of the pattern engine.index")

    @property
    def identity(self) -> str:
        """Which indexes these are; differs when one was made anew."""
        return " ".join(sorted(self._uuids.values()))

    def walk(self, field: str | None = None, since: int = 0) -> Iterator[list[tuple[str, str]]]:
        """(name, version) of the documents as they are now, each once, in no particular order; some at a time.

        Args:
            field: a field of dates; only documents where it is not before ``since``. None: all documents.
            since: milliseconds since 1970.
        """
        query: dict[str, Any] = {"match_all": {}}
        if field is not None:
            query = {"range": {field: {"gte": since, "format": "epoch_millis"}}}
        for hits in self._engine.pages(
            {"query": query, "size": _PAGE, "_source": False, "seq_no_primary_term": True}
        ):
            yield [(self._name(hit), self._version(hit)) for hit in hits]

    def fetch(self, names: Sequence[str]) -> list[VersionedDocument]:
        """Documents as searches show them now; those that are gone are left out."""
        wanted = set(names)
        ids = sorted({name.partition("/")[2] for name in names})
        most = max(1, _WINDOW // len(self._uuids))
        found = []
        for start in range(0, len(ids), most):
            part = ids[start : start + most]
            query = {"ids": {"values": part}}
            size = min(_WINDOW, len(part) * len(self._uuids))
            body = {"query": query, "size": size, "seq_no_primary_term": True, "track_total_hits": False}
            hits = whole_hits(self._engine.ask(body, WHOLE))
            found += [
                VersionedDocument(self._name(hit), self._version(hit), hit.get("_source") or {}) for hit in hits
            ]
        return [document for document in found if document.name in wanted]

    def newest(self, field: str) -> int | None:
        """The latest date of a field, in milliseconds since 1970; None: no document has one.

        Raises:
            SettingsError: it is no field of dates.
        """
        # Unmapped in one of several indexes is no fault.
        kinds = self._engine.request("GET", "/_field_caps", None, {"fields": field})["fields"].get(field, {})
        if not set(kinds) <= {"date", "date_nanos"} or not kinds:
            what = f"its type is {', '.join(sorted(kinds))}" if kinds else "the index has no such field"
            raise SettingsError(f"--by {field}: {what}; give a field of type date, or leave --by out")
        body = {"size": 0, "track_total_hits": False, "aggs": {"newest": {"max": {"field": field}}}}
        value = self._engine.ask(body, WHOLE)["aggregations"]["newest"]["value"]
        return None if value is None else int(value)

    def _name(self, hit: Mapping[str, Any]) -> str:
        return f"{hit['_index']}/{hit['_id']}"

    def _version(self, hit: Mapping[str, Any]) -> str:
        if "_seq_no" not in hit:
            raise EngineError(f"the index {hit['_index']} keeps no sequence numbers; it cannot be followed")
        # Without a UUID: an index that the pattern matches since just now.
        return f"{self._uuids.get(hit['_index'], '')} {hit['_seq_no']} {hit['_primary_term']}"
