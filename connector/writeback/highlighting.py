"""The model that OpenSearch's ``semantic`` highlighter asks for the sentences that answer.

Forms: ``SemanticHighlighter``, ``MLCommonsClientAccessor`` and ``HighlightTagApplier`` of neural-search,
``ConnectorUtils`` of ml-commons; all were run on 3.6.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from connector.engines.cluster.connection import ClusterError, ServerVersion
from connector.errors import EngineError
from connector.golden import GOLDEN_DOCUMENTS, GOLDEN_QUERY
from connector.writeback.calls import Call
from connector.writeback.deployment import MODELS
from connector.writeback.opensearch import Found, OpenSearchPipeline
from connector.writeback.proving import Proof, mended
from connector.writeback.search_pipeline import PipelinePlan

__all__ = [
    "FACTORIES",
    "HighlightPlan",
    "beside",
    "check_version",
    "install_highlighter",
    "options_of",
    "prove_highlights",
]

FACTORIES = "cluster.search.enabled_system_generated_factories"
"""Setting of clusters that can highlight a page in one call: which processors they add to a search by themselves."""

_FACTORY = "semantic-highlighter"
_DOCUMENT = " ".join(GOLDEN_DOCUMENTS)
# One document comes as question and context, many come as inputs, which are JSON already. Whatever the texts hold
# must not look like a placeholder, so that the dollar sign goes escaped; and a text that is JSON by itself would go
# without quotes as a parameter of its own. So the script writes the whole body.
_SCRIPT = r"""
String quoted(String text) {
  String made = text.replace('\\', '\\\\').replace('"', '\\"').replace('$', '\\u0024');
  for (int code = 0; code < 32; code++) {
    made = made.replace(String.valueOf((char) code), '\\u00' + (code < 16 ? '0' : '') + Integer.toHexString(code));
  }
  return '"' + made + '"';
}
String body;
if (params.inputs != null) {
  body = '{"inputs":' + params.inputs.replace('$', '\\u0024') + '}';
} else if (params.algorithm != null) {
  body = '{"question":' + quoted(params.question) + ',"context":' + quoted(params.context) + '}';
} else {
  body = '{"question":"' + params.question.replace('$', '\\u0024') + '",'
    + '"context":"' + params.context.replace('$', '\\u0024') + '"}';
}
return '{"parameters":{"rh_body":' + quoted(body) + '}}';
"""


def check_version(version: ServerVersion) -> None:
    """Refuse a cluster without the highlighter.

    Raises:
        EngineError: so it is; the message says what works there.
    """
    if version.major < 3:
        raise EngineError(
            f"--highlight: OpenSearch {version} has no semantic highlighter (3.0 and newer have it); leave it out, "
            "or let the gateway add passages (serve.gateway_highlight: docs/gateway.md)"
        )


@dataclass(frozen=True, slots=True)
class HighlightPlan(PipelinePlan):
    """The highlighter's model beside a search pipeline: the same installation, but for the pipeline."""

    @classmethod
    def beside(cls, plan: PipelinePlan) -> HighlightPlan:
        """With a name that no pipeline can have: those have small letters."""
        return cls(
            f"{plan.name}-Highlight",
            plan.service_url,
            plan.fields,
            timeout_s=plan.timeout_s,
            connections=plan.connections,
            skip_verification=plan.skip_verification,
            client_files=plan.client_files,
        )

    def settings_needed(self, current: Mapping[str, Any], has_ml_nodes: bool) -> dict[str, Any]:
        """As for a pipeline; and where the cluster can highlight a page in one call, that it may."""
        needed = PipelinePlan.settings_needed(self, current, has_ml_nodes)
        enabled = current.get(FACTORIES)
        if enabled is not None and not {"*", _FACTORY} & set(enabled):
            needed[FACTORIES] = [*enabled, _FACTORY]
        return needed

    def connector(self) -> dict[str, Any]:
        """Body of ``connectors/_create``."""
        body = PipelinePlan.connector(self)
        (action,) = body["actions"]
        del action["post_process_function"]
        action |= {
            "url": f"{self.service_url}/v1/highlight",
            "request_body": "${parameters.rh_body}",
            "pre_process_function": _SCRIPT,
        }
        body["parameters"] |= {
            "skip_validating_missing_parameters": "true",
            "pre_process_function.process_remote_inference_input": "true",
        }
        return body

    def pipeline(self, model: str) -> dict[str, Any] | None:
        """None: a search names the model itself."""
        return None


def beside(pipeline: OpenSearchPipeline) -> OpenSearchPipeline:
    """The installation of the highlighter's model that belongs to a pipeline's."""
    return OpenSearchPipeline(pipeline.connection, HighlightPlan.beside(pipeline.plan), pipeline.key, pipeline.told)


def options_of(found: Found) -> dict[str, Any]:
    """What a search says under ``highlight.options``: the model, and in one call where the cluster can.

    Args:
        found: an installation of a ``HighlightPlan``, with its model.
    """
    assert found.model is not None
    batch = {"batch_inference": True} if FACTORIES in found.settings else {}
    return {"model_id": found.model[0], **batch}


def install_highlighter(highlighter: OpenSearchPipeline, index: str) -> tuple[list[Call], list[Proof]]:
    """Make what is missing or differs, and prove it.

    Returns:
        The calls that were sent, and what was tried.

    Raises:
        EngineError: the cluster refuses, or the proof of a first installation fails; then it is removed again.
    """
    check_version(highlighter.connection.version)
    fresh = highlighter.find().is_empty
    sent = highlighter.install()
    proofs = prove_highlights(highlighter, index)
    if proofs[0].status == 401 and not fresh:
        # The cluster does not show the key that it has: a refusal is how a changed one is noticed.
        highlighter.renew_key()
        proofs = prove_highlights(highlighter, index)
    if not proofs[0].holds and fresh:
        highlighter.uninstall()
        raise EngineError(f"{proofs[0].detail}. Nothing of the highlighter was left in the cluster.")
    return sent, proofs


def prove_highlights(highlighter: OpenSearchPipeline, index: str | None) -> list[Proof]:
    """Texts through the cluster to the service and back; then searches, one document a call and all in one.

    Args:
        highlighter: an installation of a ``HighlightPlan``.
        index: what is searched; None: no search.
    """
    found = highlighter.find()
    if found.model is None:
        return [Proof("highlight", False, "there is no model")]
    model, batch = found.model[0], "batch_inference" in options_of(found)
    proofs = [
        _texts(
            highlighter,
            "highlight, one document",
            f"/_plugins/_ml/_predict/question_answering/{model}",
            {"question": GOLDEN_QUERY, "context": _DOCUMENT},
        )
    ]
    if proofs[0].holds and batch:
        inputs = [{"question": GOLDEN_QUERY, "context": own} for own in (_DOCUMENT, GOLDEN_DOCUMENTS[0])]
        body = {"parameters": {"inputs": inputs}}
        proofs.append(_texts(highlighter, "highlight, two documents", f"{MODELS}/{model}/_predict", body))
    if proofs[0].holds and index is not None:
        proofs += _searches(highlighter, options_of(found), index)
    return proofs


def _texts(highlighter: OpenSearchPipeline, name: str, path: str, body: Mapping[str, Any]) -> Proof:
    try:
        answer = highlighter.connection.request("POST", path, body)
    except ClusterError as error:
        return Proof(name, False, mended(error, highlighter.plan), error.status)
    told = answer["inference_results"][0]["output"][0].get("dataAsMap", {})
    shown = told.get("highlights") or []
    # Of many documents there is a list each.
    shown = shown[0] if shown and isinstance(shown[0], list) else shown
    marked = _DOCUMENT[int(shown[0]["start"]) : int(shown[0]["end"])] if shown else ""
    return Proof(name, bool(marked), marked or f"no sentence: {told.get('reason') or told}")


def _searches(highlighter: OpenSearchPipeline, options: Mapping[str, Any], index: str) -> Iterator[Proof]:
    connection, field = highlighter.connection, highlighter.plan.fields[0]
    path, name = f"/{quote(index, safe='*,-_.')}/_search", "a search with highlight"
    try:
        answer = connection.request("POST", path, {"size": 1, "query": {"exists": {"field": field}}})
        text = answer["hits"]["hits"][0]["_source"][field]
    except (ClusterError, LookupError):
        text = None
    if not isinstance(text, str):
        yield Proof(name, False, f"not tried: no document in {index} (engine.index) has one text in {field}")
        return
    ways = {f"{name}, one document a call": {"model_id": options["model_id"]}}
    if "batch_inference" in options:
        ways[f"{name}, one call"] = dict(options)
    for name, chosen in ways.items():
        body = {
            "size": 1,
            "query": {"match": {field: " ".join(text.split()[:8])}},
            "highlight": {"fields": {field: {"type": "semantic"}}, "options": chosen},
        }
        try:
            hits = connection.request("POST", path, body)["hits"]["hits"]
        except ClusterError as error:
            yield Proof(name, False, mended(error, highlighter.plan), error.status)
            continue
        good = any("<em>" in part for hit in hits for part in hit.get("highlight", {}).get(field, []))
        yield Proof(name, good, "a sentence is marked" if good else "no sentence is marked")
