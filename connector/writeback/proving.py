"""Does the installed pipeline do what it should? Asked of the cluster itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from connector.engines.cluster.connection import ClusterError, Connection
from connector.golden import GOLDEN_DOCUMENTS, GOLDEN_QUERY
from connector.writeback.hosting import normalizes
from connector.writeback.search_pipeline import FIRST_STAGE_FIELDS, PipelinePlan

__all__ = ["Proof", "overwritten", "predict", "prove_searches", "was_reranked"]

# The second answers.
_DOCUMENTS = list(GOLDEN_DOCUMENTS[:2])
_HYBRID = "a hybrid search"


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried.

    Attributes:
        name: what.
        holds: it was as it must be.
        detail: what was seen, and the mend where it does not hold.
        status: HTTP status of the cluster's refusal, where there was one.
    """

    name: str
    holds: bool
    detail: str
    status: int | None = None


def predict(connection: Connection, plan: PipelinePlan, model: str) -> Proof:
    """Two documents through the cluster to the service and back: the way that a search takes."""
    name = "_predict with two documents"
    if plan.route == "rerank":
        body: dict[str, Any] = {"query_text": GOLDEN_QUERY, "text_docs": _DOCUMENTS}
        path = f"/_plugins/_ml/_predict/text_similarity/{model}"
    else:
        body = {"parameters": {"query": GOLDEN_QUERY, "documents": _DOCUMENTS}}
        path = f"/_plugins/_ml/models/{model}/_predict"
    try:
        answer = connection.request("POST", path, body)
    except ClusterError as error:
        return Proof(name, False, f"{error}; {_mend(str(error), plan)}", error.status)
    output = answer["inference_results"][0]["output"]
    if plan.route == "rerank":
        scores = [entry["data"][0] for entry in output]
    else:
        scores = output[0]["dataAsMap"].get("scores", [])
    good = len(scores) == 2
    detail = f"scores {scores[0]:.3f} and {scores[1]:.3f}" if good else f"{len(scores)} scores for two documents"
    return Proof(name, good, detail)


def prove_searches(connection: Connection, plan: PipelinePlan, index: str) -> Iterator[Proof]:
    """Searches through the pipeline, good ones and those that trip a processor up; none may fail."""
    path = f"/{quote(index, safe='*,-_.')}/_search"
    if not _count(connection, index):
        yield Proof("a search", False, f"not tried: there are no documents in {index} (engine.index)")
        return
    everything: dict[str, Any] = {"match_all": {}}
    marked = plan.search(GOLDEN_QUERY, everything)
    installed = connection.request("GET", f"/_search/pipeline/{plan.searched}")[plan.searched]
    cases: list[tuple[str, Mapping[str, Any]]] = [
        ("a search", {**marked, "size": 5}),
        ("size: 0", {**marked, "size": 0}),
        ("from past the end", {**marked, "from": 9_000, "size": 10}),
        ("no query text in ext", {"query": everything, "size": 5}),
        ("track_total_hits: false", {**marked, "size": 5, "track_total_hits": False}),
    ]
    if normalizes(installed):
        cases.append((_HYBRID, {**plan.search(GOLDEN_QUERY, _hybrid(plan)), "size": 5}))
    for name, body in cases:
        try:
            answer = connection.request("POST", path, body, {"search_pipeline": plan.searched})
        except ClusterError as error:
            yield Proof(name, False, str(error), error.status)
            continue
        hits = answer["hits"]["hits"]
        if name == _HYBRID:
            ids = [hit["_id"] for hit in hits]
            yield Proof(name, len(set(ids)) == len(ids), f"{len(hits)} hits, each once")
        elif not hits and plan.into is not None:
            # Their filters may leave none of the documents that a made-up query finds.
            yield Proof(name, True, "0 hits")
        elif name == "a search" and plan.query_path is None:
            done = was_reranked(answer, plan)
            yield Proof(name, done, f"{len(hits)} hits, {'reranked' if done else 'in the order of the cluster'}")
        else:
            yield Proof(name, True, f"{len(hits)} hits")


def was_reranked(answer: Mapping[str, Any], plan: PipelinePlan) -> bool:
    """Told from the answer alone: a search without ``profile`` has that key only when a processor re-scored it."""
    hits = answer["hits"]["hits"]
    if plan.route == "scores":
        return bool(hits) and all(set(FIRST_STAGE_FIELDS) & set(hit.get("_source") or {}) for hit in hits)
    return "profile" in answer


def overwritten(connection: Connection, plan: PipelinePlan, index: str) -> str | None:
    """The field of the index that hits would show the first-stage score in, instead of its own value; None: none."""
    field = plan.on(connection.version).first_stage_field
    if plan.route != "scores":
        return None
    try:
        answer = connection.request("GET", f"/{quote(index, safe='*,-_.')}/_mapping/field/{field}")
    except ClusterError:
        # The index has a proof of its own.
        return None
    return field if any(about["mappings"] for about in answer.values()) else None


def _hybrid(plan: PipelinePlan) -> dict[str, Any]:
    """Two rankings that find the same documents, so that one without normalization shows them twice."""
    field = plan.fields[0]
    return {"hybrid": {"queries": [{"match_all": {}}, {"exists": {"field": field}}]}}


def _count(connection: Connection, index: str) -> int:
    try:
        return int(connection.request("GET", f"/{quote(index, safe='*,-_.')}/_count")["count"])
    except ClusterError:
        return 0


def _mend(said: str, plan: PipelinePlan) -> str:
    """What to do about the cluster's words."""
    known = {
        "private ip": "set plugins.ml_commons.connector.private_ip_enabled, then undeploy and deploy the model",
        "trusted connector": f"add {plan.own_pattern} to plugins.ml_commons.trusted_connector_endpoints_regex",
        "Connection refused": f"the cluster cannot reach {plan.service_url}: start rh-connector serve there, with "
        "serve.host an address that the cluster sees, or mend writeback.service_url",
        "UnknownHost": f"the cluster does not know the host of {plan.service_url}; mend writeback.service_url",
        "PKIX": f"the cluster does not trust the certificate of {plan.service_url}: give its Java the CA, or, where "
        "nobody else is on the way, set writeback.skip_verification: true (OpenSearch 3.5+)",
        "Read timed out": "the service takes longer than writeback.timeout_s; raise it, or rerank fewer hits",
        "wrong key": "the service's key is another one; run pipeline install with the same serve.api_keys",
        "being loaded": "the service is loading its model; try again in some seconds",
        "no key": "set serve.api_keys here as it is for the service, then run pipeline install again",
    }
    for words, mend in known.items():
        if words.lower() in said.lower():
            return mend
    return f"look at the log of rh-connector serve at {plan.service_url}"
