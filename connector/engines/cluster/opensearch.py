"""OpenSearch through opensearch-py."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy import exceptions as failures

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
from connector.errors import EngineError, MissingExtraError
from connector.sections import EngineSettings

__all__ = ["OpenSearchConnection"]

_CONNECTIONS = 16


class OpenSearchConnection:
    """See ``Connection``. Credentials: basic, API key, bearer token, client certificate, or AWS SigV4."""

    def __init__(self, engine: EngineSettings) -> None:
        self.url = (engine.url or DEFAULT_URL).rstrip("/")
        self._patience = Patience(self.url, engine.timeout_ms / 1000)
        options: dict[str, Any] = certificate_options(engine)
        headers: dict[str, str] = {}
        if engine.aws_region is not None:
            options["http_auth"] = _signer(engine)
        elif engine.username is not None:
            options["http_auth"] = (engine.username, engine.password.get_secret_value() if engine.password else "")
        elif engine.bearer_token is not None:
            headers["Authorization"] = f"Bearer {engine.bearer_token.get_secret_value()}"
        elif engine.api_key is not None:
            headers["Authorization"] = f"ApiKey {engine.api_key.get_secret_value()}"
        try:
            self._client = OpenSearch(
                hosts=[self.url],
                timeout=engine.timeout_ms / 1000,
                max_retries=0,
                # Its default of one makes every concurrent search open a connection of its own.
                pool_maxsize=_CONNECTIONS,
                headers=headers or None,
                http_compress=self.url.startswith("https://"),
                **options,
            )
        except (failures.ImproperlyConfigured, ValueError, OSError) as error:
            raise EngineError(f"engine.url = {self.url}: {error}") from None

    @cached_property
    def version(self) -> ServerVersion:
        """See ``Connection.version``."""
        try:
            about = self.request("GET", "/")
        except ClusterError as error:
            if is_of_another_service(error):
                raise NoCluster(self.url, error.status, error.body) from None
            raise
        product = product_of(about)
        if product is None:
            raise NoCluster(self.url)
        if product != "opensearch":
            raise ClusterError(f"{self.url} is no OpenSearch; for Elasticsearch set engine.kind to elasticsearch")
        version = ServerVersion.parse(str(about["version"]["number"]), "opensearch")
        version.check()
        return version

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``Connection.request``."""
        answer = self._patience(lambda: self._send(method, path, body, params, {}))
        return parsed(answer, self.url, path)

    def bulk(self, lines: Sequence[bytes], params: Mapping[str, Any] | None = None) -> Any:
        """See ``Connection.bulk``."""
        body = b"".join(line + b"\n" for line in lines)
        return self._send("POST", "/_bulk", body, params, {"content-type": "application/x-ndjson"})

    def close(self) -> None:
        """See ``Connection.close``."""
        self._client.close()

    def _send(
        self, method: str, path: str, body: Any, params: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Any:
        try:
            answer = self._client.transport.perform_request(
                method, path, params=dict(params or {}), body=body, headers=dict(headers)
            )
        except failures.ConnectionTimeout:
            raise ClusterError(f"{self.url} did not answer in time; raise engine.timeout_ms or look at it") from None
        except failures.ConnectionError as error:
            raise ClusterError(f"cannot reach {self.url}: {_innermost(error)}; check engine.url") from None
        except failures.TransportError as error:
            status = error.status_code if isinstance(error.status_code, int) else None
            said = reason_of(error.info or error.error)
            raise ClusterError(f"{self.url}{path} answered {status}: {said}", status, error.info) from None
        except (failures.SerializationError, AttributeError):
            # The client stumbles over errors that are JSON and no object.
            raise ClusterError(
                f"{self.url}{path} did not answer with JSON of a cluster; check engine.url, and what stands before it"
            ) from None
        return answer


def _innermost(error: failures.ConnectionError) -> str:
    return reason_of(error.info if error.info is not None else error.error)


def _signer(engine: EngineSettings) -> Any:
    if importlib.util.find_spec("boto3") is None:
        raise MissingExtraError("boto3", "aws")
    import boto3
    from opensearchpy import Urllib3AWSV4SignerAuth

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        raise EngineError(
            "engine.aws_region is set and boto3 finds no credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or a role"
        )
    return Urllib3AWSV4SignerAuth(credentials, engine.aws_region, engine.aws_service)
