"""Elasticsearch through its official client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

import elasticsearch as client
from elasticsearch import Elasticsearch

from connector.engines.cluster.connection import (
    DEFAULT_URL,
    ClusterError,
    NoCluster,
    ServerVersion,
    certificate_options,
    is_of_another_service,
    product_of,
    reason_of,
)
from connector.engines.cluster.patience import Patience, parsed
from connector.errors import EngineError
from connector.installation import this_installation
from connector.sections import EngineSettings

__all__ = ["ElasticsearchConnection"]

_JSON = "application/json"


class ElasticsearchConnection:
    """See ``Connection``. Credentials: basic, API key, bearer token or client certificate."""

    def __init__(self, engine: EngineSettings) -> None:
        self.url = (engine.url or DEFAULT_URL).rstrip("/")
        self._patience = Patience(self.url, engine.timeout_ms / 1000)
        options: dict[str, Any] = certificate_options(engine)
        if engine.aws_region is not None:
            raise EngineError("engine.aws_region is for OpenSearch; leave it out or set engine.kind to opensearch")
        if engine.username is not None:
            options["basic_auth"] = (engine.username, engine.password.get_secret_value() if engine.password else "")
        elif engine.bearer_token is not None:
            options["bearer_auth"] = engine.bearer_token.get_secret_value()
        elif engine.api_key is not None:
            options["api_key"] = _api_key(engine.api_key.get_secret_value())
        try:
            # The client wants a port: of a URL without one it is the scheme's own.
            self._client = Elasticsearch(
                _with_port(self.url),
                request_timeout=engine.timeout_ms / 1000,
                max_retries=0,
                retry_on_timeout=False,
                http_compress=self.url.startswith("https://"),
                **options,
            )
        except (ValueError, OSError) as error:
            raise EngineError(f"engine.url = {self.url}: {error}") from None

    @cached_property
    def version(self) -> ServerVersion:
        """See ``Connection.version``."""
        try:
            about = self.request("GET", "/")
            number = about.get("version", {}).get("number") if isinstance(about, Mapping) else None
        except ClusterError as error:
            if error.status != 405:
                if is_of_another_service(error):
                    raise NoCluster(self.url, error.status, error.body) from None
                raise
            number = self._lowest_of_nodes()
        version = ServerVersion.parse(str(number), "elasticsearch")
        version.check()
        return version

    def _lowest_of_nodes(self) -> str:
        """What a node without the rest-root module tells instead."""
        try:
            nodes = self.request("GET", "/_nodes", params={"filter_path": "nodes.*.version"})["nodes"]
        except ClusterError as error:
            if is_of_another_service(error):
                raise NoCluster(self.url, error.status, error.body) from None
            raise
        return min(str(node["version"]) for node in nodes.values())

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``Connection.request``."""
        headers = {"accept": _JSON}
        if body is not None:
            headers["content-type"] = _JSON
        answer = self._patience(lambda: self._send(method, path, body, params, headers))
        return parsed(answer, self.url, path)

    def bulk(self, lines: Sequence[bytes], params: Mapping[str, Any] | None = None) -> Any:
        """See ``Connection.bulk``."""
        headers = {"accept": _JSON, "content-type": "application/x-ndjson"}
        return self._send("POST", "/_bulk", list(lines), params, headers)

    def close(self) -> None:
        """See ``Connection.close``."""
        self._client.close()

    def _send(
        self, method: str, path: str, body: Any, params: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Any:
        try:
            return self._client.perform_request(
                method, path, params=dict(params or {}), headers=dict(headers), body=body
            ).body
        except client.UnsupportedProductError as error:
            if path == "/" and product_of(error.body) is None:
                raise NoCluster(self.url, body=error.body) from None
            raise ClusterError(
                f"{self.url} is no Elasticsearch; for OpenSearch set engine.kind to opensearch"
            ) from None
        except client.ConnectionTimeout:
            raise ClusterError(f"{self.url} did not answer in time; raise engine.timeout_ms or look at it") from None
        except client.SerializationError:
            raise ClusterError(
                f"{self.url}{path} did not answer with JSON of a cluster; check engine.url, and what stands before it"
            ) from None
        except (client.ConnectionError, client.TransportError) as error:
            raise ClusterError(f"cannot reach {self.url}: {reason_of(error.message)}; check engine.url") from None
        except client.ApiError as error:
            said = reason_of(error.body)
            if "media_type_header_exception" in str(error.body) or "Accept version must be either" in said:
                raise ClusterError(_wrong_client(self.url, said), error.status_code, error.body) from None
            raise ClusterError(
                f"{self.url}{path} answered {error.status_code}: {said}", error.status_code, error.body
            ) from None


def _api_key(text: str) -> str | tuple[str, str]:
    """``id:key`` as a pair; what has no colon is the base64 form."""
    identity, colon, key = text.partition(":")
    return (identity, key) if colon else text


def _wrong_client(url: str, said: str) -> str:
    number = metadata.version("elasticsearch")
    major = int(number.split(".")[0]) - 1
    return (
        f"the Elasticsearch client {number} is newer than the server at {url} ({said}); "
        f"install its own: {this_installation().changing(f'elasticsearch>={major},<{major + 1}')}"
    )


def _with_port(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if ":" in host.rpartition("]")[2].rpartition("@")[2] or scheme not in ("http", "https"):
        return url
    return f"{scheme}://{host}:{443 if scheme == 'https' else 80}{slash}{path}"
