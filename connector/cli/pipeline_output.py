"""What ``rh-connector pipeline`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from connector.cli.context import Context

if TYPE_CHECKING:
    from connector.writeback.calls import Call
    from connector.writeback.inference_endpoint import InferencePlan
    from connector.writeback.opensearch import Found, OpenSearchPipeline
    from connector.writeback.proving import Proof

_RETRIEVERS = """
Search with this, which fuses both rankings:
  {weighted}
or with the reranked list alone:
  {retriever}
Elasticsearch sends the texts in Lucene's order of each shard, not in first-stage order, and without scores, so the
service cannot fuse them with the first stage. That costs quality: averaged over nine collections, nDCG@10 of the LLM
alone is .463, of BM25 .486, and of both .499 (docs/results.md). The first search gets fusion back
inside the cluster, for a first stage that runs twice; the gateway has the scores (docs/gateway.md).
allow_rerank_failures: when the service fails, hits keep the first-stage order. rh-connector pipeline status tells
whether it does; pipeline uninstall removes everything."""


def show_calls(context: Context, calls: Iterable[Call], url: str) -> None:
    """What would be sent, without keys: lines for a shell, or JSON."""
    from connector.writeback.calls import curl

    calls = list(calls)
    if context.as_json:
        context.print_json([{"method": c.method, "path": c.path, "body": c.body, "why": c.why} for c in calls])
        return
    lines = [f"# {call.why}\n{curl(call, url)}" for call in calls]
    if any("$RH_KEY" in line for line in lines):
        click.echo("# RH_KEY: a key of rh-connector serve (serve.api_keys); unset where it has none")
    for line in lines:
        click.echo(line)
    if not calls:
        click.echo("# nothing to do")


def show_retrievers(plan: InferencePlan) -> None:
    """How to search through an inference endpoint, and what it costs."""
    examples = {"retriever": plan.retriever("QUERY"), "weighted": plan.weighted("QUERY")}
    click.echo(_RETRIEVERS.format(**{name: json.dumps(body) for name, body in examples.items()}))


def pieces_of(found: Found) -> dict[str, str]:
    """Every piece of an OpenSearch installation, and its state."""

    def named(part: Any) -> str:
        return "missing" if part is None else str(part[0])

    state = "" if found.model is None else f" ({found.model[1].get('model_state')})"
    return {
        "settings": "missing" if found.record is None else "set",
        "connector": named(found.connector),
        "model group": named(found.group),
        "model": named(found.model) + state,
        "pipeline": _pipelines(found),
    }


def told_plugin(plugin: Mapping[str, Any]) -> str:
    """What the neural-search plugin counts, of all pipelines of the cluster."""
    if not plugin["enabled"]:
        return "off (the cluster setting plugins.neural_search.stats_enabled turns them on)"
    return ", ".join(f"{name} {number}" for name, number in plugin["counts"].items()) or "no rerank figures"


def _pipelines(found: Found) -> str:
    own = [] if found.pipeline is None else ["there"]
    return ", ".join([*own, *(f"in {host}" for host in found.hosts)]) or "missing"


def show_proofs(proofs: list[Proof]) -> None:
    """One line each."""
    for proof in proofs:
        click.echo(f"{'ok' if proof.holds else '--':<4}{proof.name}: {proof.detail}")


def advice(pipeline: OpenSearchPipeline) -> str:
    """How to search through a pipeline."""
    plan = pipeline.plan
    query_clause = {"multi_match": {"query": "QUERY", "fields": list(plan.fields)}}
    body = json.dumps(plan.search("QUERY", query_clause), ensure_ascii=False)
    query = "its query text in ext" if plan.query_path is None else f"its query text in {plan.query_path}"
    told = (
        "an answer that was reranked has the key profile"
        if plan.route == "rerank"
        else f"a hit that was reranked has {plan.on(pipeline.connection.version).first_stage_field} in its _source"
    )
    return (
        f"\nSearch with ?search_pipeline={plan.searched} and a body like\n  {body}\n"
        f"Each request needs {query}; without it, and whenever the service fails, hits keep the cluster's order.\n"
        f"Only the page (from, size) is reranked: --oversample N reranks N times as many.\n"
        f"A sort of your own is reranked away, and a search template must have the pipeline in its URL.\n"
        f"_source must hold {', '.join(plan.fields)}. Was it reranked? {told}.\n"
        f"rh-connector pipeline status counts failures; pipeline uninstall removes everything."
    )
