"""The typed table of settings, a class a section: what there is, its default, what it does, and what it may be.

Read from files, variables and options by ``connector.settings``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from connector.credentials import HIDDEN, cut, redacted, without_user
from connector.errors import SettingsError

__all__ = [
    "CLUSTER_KINDS",
    "LANGUAGES",
    "LAYOUTS",
    "MODES",
    "READOUTS",
    "BackboneSettings",
    "CacheSettings",
    "CascadeSettings",
    "ClusterKind",
    "EngineSettings",
    "Language",
    "Layout",
    "Mode",
    "ReadOut",
    "RerankSettings",
    "RouterSettings",
    "ServeSettings",
    "Settings",
    "WritebackSettings",
]

Layout = Literal["solo", "late", "joint"]
"""How documents and query are laid out in the prompt; see docs/how-it-works.md."""
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Mode = Literal["routed", "static", "all"]
"""How the heads of a query are chosen."""
MODES: tuple[Mode, ...] = get_args(Mode)
ReadOut = Literal["query", "share", "icr"]
"""How a head's attention becomes a score; see ``connector.heads.readouts``."""
READOUTS: tuple[ReadOut, ...] = get_args(ReadOut)
ClusterKind = Literal["opensearch", "elasticsearch"]
Language = Literal[
    "none",
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]
"""Languages that tantivy has a stemmer for; none: words as they are, in lower case."""
LANGUAGES: tuple[Language, ...] = get_args(Language)
EngineKind = Literal["embedded", ClusterKind]
"""Engines that are clusters with a REST API."""
CLUSTER_KINDS: tuple[ClusterKind, ...] = get_args(ClusterKind)


def _default_cache_path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(root).expanduser() / "rh-connector"
    except RuntimeError:
        raise SettingsError("this user has no home folder (HOME is not set); set cache.path to a folder") from None


def _split_fields(value: Any) -> Any:
    """``title^2,text`` (one string, as the environment and options carry it) becomes a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _split_keys(value: Any) -> Any:
    """A list of keys, of YAML or JSON, or one text with commas between; white space around each is no part of it."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip().startswith("[") else value.split(",")
        except ValueError:
            raise ValueError("give keys with commas between them, or a list as JSON writes it") from None
    if not isinstance(value, list | tuple):
        return value
    keys = [cut(key.get_secret_value() if isinstance(key, SecretStr) else key) for key in value]
    return [key for key in keys if key != ""]


def _check_prefix(value: str | None) -> str | None:
    path = (value or "").strip().rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("give a path such as /search, or nothing")
    return path or None


def _check_fusion(value: str | float) -> str | float:
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("auto", "rrf", "none"):
            return text
        try:
            value = float(text)
        except ValueError:
            raise ValueError("give auto, rrf, none, or a weight of the first stage from 0 up") from None
    if not 0 <= value < float("inf"):
        raise ValueError("give auto, rrf, none, or a weight of the first stage from 0 up")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class EngineSettings(_Section):
    """The first stage."""

    kind: EngineKind = Field("embedded", description="Search engine that answers the first stage.")
    url: str | None = Field(
        None, description="URL of the cluster; for embedded, the folder of its indexes (null: in cache.path)."
    )
    index: str = Field("default", min_length=1, description="Name of the index.")
    fields: Annotated[tuple[str, ...], BeforeValidator(_split_fields)] = Field(
        (),
        description="Fields to search and score, each with an optional weight as in title^2; empty: all text fields.",
    )
    embedder: str | None = Field(
        None,
        min_length=1,
        description="Embedding model of the embedded engine: its hits come from BM25 and the nearest vectors. A "
        "folder (ONNX), all-MiniLM-L6-v2 or bge-small-en-v1.5; null: BM25 alone. See docs/no-cluster.md.",
    )
    language: Language | None = Field(
        None,
        description="Language in which the embedded index cuts words down to their stems, or none. null: that of the "
        "index, english for a new one. See docs/no-cluster.md.",
    )
    username: str | None = Field(None, description="User name for basic authentication.")
    password: SecretStr | None = Field(None, description="Password for basic authentication.")
    api_key: SecretStr | None = Field(
        None, description="API key of the cluster: id:key, or the two in base64, as the cluster gave it."
    )
    bearer_token: SecretStr | None = Field(None, description="Bearer token (JWT) for the cluster.")
    aws_region: str | None = Field(
        None, description="AWS region: requests are signed (SigV4) with the credentials that boto3 finds."
    )
    aws_service: Literal["es", "aoss"] = Field(
        "es", description="AWS service that is signed for: es (managed domains) or aoss (serverless)."
    )
    verify_certs: bool = Field(True, description="Check the cluster's TLS certificate.")
    ca_certs: Path | None = Field(
        None, description="File of certificate authorities that sign the cluster's certificate; null: the system's."
    )
    client_cert: Path | None = Field(None, description="Client certificate (PEM) shown to the cluster.")
    client_key: Path | None = Field(None, description="Private key (PEM) of the client certificate.")
    timeout_ms: int = Field(10_000, gt=0, description="Longest wait for one answer of the engine.")
    retry_ms: int = Field(
        30_000,
        ge=0,
        description="How long to repeat a request that the cluster refuses for now (429, 503, no connection).",
    )
    query_json: str | None = Field(
        None,
        description="First-stage query in the cluster's language; {query} stands for the user's words. "
        "null: a multi_match over engine.fields.",
    )

    @field_validator("fields")
    @classmethod
    def _weights_are_numbers(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        for entry in fields:
            name, _, weight = entry.partition("^")
            try:
                good = bool(name) and (not weight or float(weight) > 0) and not entry.endswith("^")
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"'{entry}' is not a field with an optional weight, as in title^2")
        return fields

    def field_weights(self) -> dict[str, float]:
        """Field name -> weight, in the order given."""
        pairs = (entry.partition("^") for entry in self.fields)
        return {name: float(weight or 1) for name, _, weight in pairs}

    @field_validator("username", "password", "api_key", "bearer_token", mode="before")
    @classmethod
    def _cut(cls, value: Any) -> Any:
        # None for what is empty: no header can carry it. A password may be empty.
        return cut(value)

    @model_validator(mode="before")
    @classmethod
    def _user_of_url(cls, values: Any) -> Any:
        """User and password of the URL become settings of their own: a URL is told in every message."""
        url = values.get("url") if isinstance(values, dict) else None
        if not isinstance(url, str) or values.get("kind", "embedded") not in CLUSTER_KINDS:
            return values
        if "@" not in url and "?" not in url and "#" not in url:
            return values
        try:
            plain, user, password = without_user(url.strip())
        except ValueError as error:
            raise ValueError(f"engine.url = {HIDDEN}: {error}") from None
        if user is None:
            return values
        for name, found in (("username", user), ("password", password)):
            given = values.get(name)
            given = given.get_secret_value() if isinstance(given, SecretStr) else given
            if None not in (given, found) and given != found:
                raise ValueError(f"engine.url names a user, and engine.{name} is set to another; leave one out")
        # A null beside it, as config.yaml has it, says nothing.
        of_url = {"username": user, "password": password}
        return {**values, **{name: found for name, found in of_url.items() if found is not None}, "url": plain}


class BackboneSettings(_Section):
    """The frozen LLM."""

    model: str = Field(
        "smollm2-135m", min_length=1, description="Catalogue name, folder, GGUF file, or hub id of the LLM."
    )
    layout: Layout = Field(
        "solo",
        description="How the LLM sees documents: each read alone, the query behind it (solo), keys of some heads "
        "only (late), all in one prompt (joint). Not set, with router.mode all: late.",
    )
    runtime: Literal["auto", "torch", "onnx"] = Field(
        "auto", description="What executes the LLM. auto: ONNX Runtime without torch; with both, the faster one."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the LLM runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="Number format of the weights. auto: bfloat16 where CUDA or the CPU has it, else float32. "
        "int8: an int8 export in the runtime onnx.",
    )
    max_document_tokens: int = Field(
        512, ge=8, le=32_768, description="Tokens of a passage; longer documents are split into passages."
    )
    max_passages: int = Field(
        8, ge=1, le=1024, description="Most passages of one document; a document with more is cut and marked."
    )
    offline: bool = Field(False, description="Never touch the network.")
    accept_license: bool = Field(
        False, description="Accept a licence that weights ask for (Gemma), without a question."
    )


class CacheSettings(_Section):
    """Documents that were encoded before."""

    memory_mb: int = Field(1024, ge=0, description="Most memory for encoded documents, in MB; 0 turns it off.")
    disk_mb: int = Field(
        0, ge=0, description="Most disk for encoded documents, in MB; 0 turns it off. See docs/document-cache.md."
    )
    shared: Annotated[Path, AfterValidator(Path.expanduser)] | None = Field(
        None,
        description="File of encoded documents that another machine made (cache export) and this one only reads; "
        "null: none.",
    )
    scores_mb: int = Field(
        0, ge=0, description="Most memory for repeated queries over the same documents, in MB; 0 turns it off."
    )
    path: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default_factory=_default_cache_path,
        description="Folder for weights, embedded indexes and encoded documents.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8", "int4"] = Field(
        "auto",
        description="Number format of cached keys and values; auto: that of the weights where it has 16 bits, "
        "else float16. int4: runtime torch only. See docs/document-cache.md.",
    )


class RouterSettings(_Section):
    """Which heads are read."""

    mode: Literal["auto"] | Mode = Field(
        "auto",
        description="Heads chosen for each query, one fixed set, or all (ICR); auto: routed, else static.",
    )
    bundle: Path | None = Field(
        None, description="File of the router or head set; null: the one shipped for the model and layout."
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="ONNX Runtime provider of the router. auto: CUDA where onnxruntime-gpu has it, and "
        "backbone.device is not cpu.",
    )
    embedder: str | None = Field(
        None,
        min_length=1,
        description="Embedding model beside the LLM whose cosines the router weighs too: bge-small-en-v1.5, for "
        "which routers of smollm2-135m and the qwen2.5-coder models are shipped. Or another, a folder or a known "
        "name, with a router that was trained with it. See docs/training.md.",
    )


class RerankSettings(_Section):
    """One rerank request."""

    window: int = Field(20, ge=1, le=10_000, description="How many first-stage hits are reranked.")
    readout: ReadOut = Field("query", description="How attention becomes a score: see docs/how-it-works.md.")
    fusion: Annotated[str | float, AfterValidator(_check_fusion)] = Field(
        "auto",
        description="Weight of the first stage, or rrf, none, or auto: the weight found with the head set.",
    )
    deadline_ms: int | None = Field(
        None, gt=0, description="Time after which the first-stage order goes back; null: none."
    )


class CascadeSettings(_Section):
    """A second, larger LLM, which reads the first hits of what the first one ranked."""

    model: str | None = Field(
        None,
        min_length=1,
        description="The second LLM, named as backbone.model is; null: none. See docs/models.md.",
    )
    bundle: Path | None = Field(None, description="File of its router; null: the one shipped for the model.")
    hits: int = Field(5, ge=1, description="How many of the first LLM's best hits it reads.")
    budget_ms: int | None = Field(
        None, gt=0, description="Time that it may take for a request: it reads as many hits as fit. null: no bound."
    )


class ServeSettings(_Section):
    """The HTTP service."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65_535, description="Port to listen on; 0: a free one.")
    api_keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_split_keys)] = Field(
        (), description="Bearer keys that are let in; empty: everybody."
    )
    at_once: int | None = Field(
        None, ge=1, description="Requests that are let in beside those that may wait; null: one a core, at least 8."
    )
    max_queue: int = Field(32, ge=1, description="Requests that may wait; more are answered 429.")
    max_documents: int = Field(1000, ge=1, description="Documents one request may hold.")
    max_body_mb: int = Field(16, ge=1, description="Largest request body, in MB.")
    root_path: Annotated[str | None, AfterValidator(_check_prefix)] = Field(
        None, description="Path in front of all routes, as in /search, where a proxy leaves it on; null: none."
    )
    results_order: Literal["score", "input"] = Field(
        "score", description="Order of results where a request names none: best first, or as the documents came."
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Seconds after SIGTERM in which /ready is 503 and requests are still taken: a balancer sees it "
        "first. A second signal ends them.",
    )
    access_log: bool = Field(
        True, description="Write one JSON line a request to standard error, without any text of it."
    )
    page: Literal["auto"] | bool = Field(
        "auto",
        description="The page at / and /ui, which searches the index; auto: where only this machine or holders of "
        "api_keys reach it, or where the gateway shows the index anyway.",
    )
    gateway: bool = Field(
        True, description="Answer _search and _msearch in front of the cluster (engine.url), reranked."
    )
    gateway_writes: bool = Field(False, description="Let the gateway pass requests that change the cluster.")
    gateway_scores: Literal["first_stage", "rerank"] = Field(
        "first_stage",
        description="_score of a reranked hit: the cluster's own (hits stay as they are), or the reranker's.",
    )
    gateway_highlight: bool = Field(
        False, description="Let the gateway add the sentences that answer to reranked hits' highlight."
    )


class WritebackSettings(_Section):
    """How the cluster reaches the service, for ``pipeline install``."""

    name: str = Field(
        "rh",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Name of the search pipeline or inference endpoint, and mark of all that belongs to it.",
    )
    service_url: str | None = Field(
        None, description="URL of rh-connector serve as the cluster sees it; needed by pipeline install."
    )
    timeout_s: int = Field(
        5, ge=1, le=60, description="Seconds the cluster waits for a reranked page before it serves its own order."
    )
    connections: int = Field(30, ge=1, description="Connections that one node of the cluster keeps to the service.")
    skip_verification: bool = Field(
        False,
        description="OpenSearch 3.5+: the cluster does not verify the service's certificate. Whoever is between them "
        "can read the key and the documents.",
    )
    client_cert: Path | None = Field(
        None, description="OpenSearch 3.9+: certificate (PEM) that the cluster shows to the service."
    )
    client_key: Path | None = Field(None, description="Private key (PEM) of that certificate; the cluster keeps it.")

    @field_validator("service_url")
    @classmethod
    def _no_user(cls, value: str | None) -> str | None:
        if value is not None and redacted(value) != value:
            raise ValueError(
                "user and password cannot stand in it, the cluster would not send them; use serve.api_keys"
            )
        return value


class Settings(_Section):
    """All settings of rh-connector."""

    engine: EngineSettings = EngineSettings()
    backbone: BackboneSettings = BackboneSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)
    router: RouterSettings = RouterSettings()
    rerank: RerankSettings = RerankSettings()
    cascade: CascadeSettings = CascadeSettings()
    serve: ServeSettings = ServeSettings()
    writeback: WritebackSettings = WritebackSettings()

    @property
    def has_gateway(self) -> bool:
        """Whether the service stands in front of a cluster."""
        return self.serve.gateway and self.engine.kind in CLUSTER_KINDS
