"""One way to talk to a cluster, whichever official client does the talking."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connector.errors import EngineError, MissingIndexError
from connector.sections import ClusterKind, EngineSettings

__all__ = [
    "DEFAULT_URL",
    "ClusterError",
    "Connection",
    "MissingIndex",
    "NoCluster",
    "ServerVersion",
    "certificate_options",
    "is_of_another_service",
    "product_of",
    "reason_of",
]

DEFAULT_URL = "http://localhost:9200"
# The oldest releases that have what is used here.
_OLDEST: Mapping[ClusterKind, tuple[int, int]] = {"opensearch": (2, 12), "elasticsearch": (8, 14)}


class ClusterError(EngineError):
    """The cluster refused a request or did not answer.

    Args:
        message: one line.
        status: HTTP status of its answer; None: there was none.
        body: its answer, parsed, if there was one.
    """

    def __init__(self, message: str, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    @property
    def is_temporary(self) -> bool:
        """The same request may be taken later."""
        return self.status is None or self.status in (429, 502, 503, 504)


class NoCluster(ClusterError):
    """Another service answers at the cluster's URL."""

    def __init__(self, url: str, status: int | None = None, body: Any = None) -> None:
        super().__init__(
            f"{url} is neither OpenSearch nor Elasticsearch, another service answers there; set engine.url (of init: "
            "--url) to the cluster's address, or engine.kind to embedded",
            status,
            body,
        )

    @property
    def is_temporary(self) -> bool:
        return False


class MissingIndex(ClusterError, MissingIndexError):
    """The cluster has no such index."""


@dataclass(frozen=True, slots=True, order=True)
class ServerVersion:
    """Which server answers."""

    major: int
    minor: int
    patch: int
    product: ClusterKind = "opensearch"

    @classmethod
    def parse(cls, text: str, product: ClusterKind) -> ServerVersion:
        """``2.19.1``, ``9.1.0-SNAPSHOT``.

        Raises:
            ClusterError: this is no version.
        """
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if not found:
            raise ClusterError(f"'{text[:40]}' is no version of {product}; check engine.url")
        return cls(int(found[1]), int(found[2]), int(found[3] or 0), product)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def check(self) -> None:
        """Refuse servers that lack what is used here.

        Raises:
            ClusterError: too old.
        """
        oldest = _OLDEST[self.product]
        if (self.major, self.minor) < oldest:
            raise ClusterError(
                f"{self.product} {self} is too old; {oldest[0]}.{oldest[1]} or newer is needed, upgrade the cluster"
            )


class Connection(Protocol):
    """JSON requests to one cluster. Thread-safe."""

    @property
    def url(self) -> str:
        """Where the cluster is, without credentials."""
        ...

    @property
    def version(self) -> ServerVersion:
        """Of the server; asked once.

        Raises:
            ClusterError: no answer, another product, or a release that is too old.
        """
        ...

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """One request, once.

        Args:
            method: HTTP method.
            path: percent-encoded, with its leading slash.
            body: sent as JSON.
            params: URL parameters.

        Returns:
            The parsed answer.

        Raises:
            ClusterError: a status of 400 or more, no JSON, no answer in ``engine.timeout_ms``, or only a part of one
                in three times as long.
        """
        ...

    def bulk(self, lines: Sequence[bytes], params: Mapping[str, Any] | None = None) -> Any:
        """One ``_bulk`` request of NDJSON lines without their line ends; as ``request``."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def product_of(about: Any) -> ClusterKind | None:
    """Which product answers ``GET /`` so; None: neither."""
    version = about.get("version") if isinstance(about, Mapping) else None
    if not isinstance(version, Mapping) or "number" not in version:
        return None
    if version.get("distribution") == "opensearch":
        return "opensearch"
    return "elasticsearch" if "tagline" in about or "build_flavor" in version else None


def is_of_another_service(error: ClusterError) -> bool:
    """Whether no cluster fails at ``GET /`` like this: not there, somewhere else, or no JSON."""
    return error.status in (301, 302, 303, 307, 308, 404, 405) or "did not answer with JSON" in str(error)


def reason_of(body: Any) -> str:
    """What a cluster's error answer says, in one line; both products, and proxies in front of them."""
    if isinstance(body, Mapping):
        error = body.get("error", body)
        if isinstance(error, Mapping):
            causes = [error, *(error.get("root_cause") or [])]
            deepest = error.get("caused_by")
            while isinstance(deepest, Mapping):
                causes.append(deepest)
                deepest = deepest.get("caused_by")
            said = dict.fromkeys(
                str(c.get("reason") or c.get("type") or "") for c in causes if isinstance(c, Mapping)
            )
            body = "; ".join(reason for reason in said if reason) or "no reason given"
        else:
            body = error
    return " ".join(str(body).split())[:400]


def certificate_options(engine: EngineSettings) -> dict[str, Any]:
    """TLS options, which both clients name alike.

    Raises:
        EngineError: a file that is not there.
    """
    options: dict[str, Any] = {}
    if (engine.url or DEFAULT_URL).startswith("https://"):
        options = {"verify_certs": engine.verify_certs, "ssl_show_warn": False}
    for name in ("ca_certs", "client_cert", "client_key"):
        path = getattr(engine, name)
        if path is None:
            continue
        path = path.expanduser()
        if not path.is_file():
            raise EngineError(f"engine.{name} = {path}: there is no such file; give a PEM file")
        options[name] = str(path)
    return options
