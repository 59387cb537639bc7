"""``rh-connector pipeline``: reranked results back through the cluster's own search."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from connector.cli.context import Context, pass_context
from connector.errors import EngineError, SettingsError
from connector.settings import Settings

if TYPE_CHECKING:
    from connector.engines.connection import Connection
    from connector.writeback.opensearch import Found, OpenSearchPipeline
    from connector.writeback.proving import Proof

Route = Literal["rerank", "scores"]

_route = click.option(
    "--route",
    type=click.Choice(["rerank", "scores"]),
    default="rerank",
    show_default=True,
    help="OpenSearch: one rerank processor; or scores, which keeps the first-stage score in the hit.",
)
_query_path = click.option(
    "--query-path", metavar="PATH", help="Route scores: where the query text is, as in query.match.text.query."
)
_oversample = click.option(
    "--oversample", type=click.IntRange(1, 100), default=1, help="Rerank so many times the page (OpenSearch 2.12+)."
)


@click.group("pipeline")
def command() -> None:
    """Install, show and remove what makes a cluster's own searches come back reranked.

    OpenSearch: a search pipeline, its model and connector. Elasticsearch: an inference endpoint. Settings:
    writeback.service_url, engine.url, engine.fields, serve.api_keys (the first one is given to the cluster). See
    docs/opensearch.md and docs/elasticsearch.md.
    """


@command.command("install")
@_route
@_query_path
@_oversample
@click.option("--default-for", metavar="INDEX", help="Make it the default pipeline of that index.")
@click.option("--dry-run", is_flag=True, help="Print the calls, ready for a shell, and change nothing.")
@pass_context
def install(
    context: Context, route: Route, query_path: str | None, oversample: int, default_for: str | None, dry_run: bool
) -> None:
    """Make what is missing, then prove that it works. Running it again changes nothing that is right."""
    from connector.writeback.calls import curl

    settings = context.settings()
    if settings.engine.kind == "elasticsearch":
        from connector.cli import inference_endpoint

        if route != "rerank" or query_path or oversample > 1 or default_for:
            raise SettingsError(
                "pipeline install: --route, --query-path, --oversample, --default-for are OpenSearch's"
            )
        inference_endpoint.install(context, settings, dry_run)
        return
    with _Opened(settings, route, query_path, oversample) as pipeline:
        found = pipeline.find()
        if dry_run:
            calls = list(pipeline.calls(found, default_for))
            if context.as_json:
                context.print_json(
                    [{"method": c.method, "path": c.path, "body": c.body, "why": c.why} for c in calls]
                )
                return
            for call in calls:
                click.echo(f"# {call.why}\n{curl(call, pipeline.connection.url)}")
            if not calls:
                click.echo("# nothing to do")
            return
        pipeline.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        fresh = found.is_empty
        sent = pipeline.install(default_for)
        proofs = _prove(pipeline, settings)
        if proofs[0].status == 401 and not fresh:
            # The cluster does not show the key that it has: a refusal is how a changed one is noticed.
            pipeline.renew_key()
            proofs = _prove(pipeline, settings)
        if not proofs[0].holds and fresh:
            pipeline.uninstall()
            raise EngineError(f"{proofs[0].detail}. Nothing was left in the cluster.")
        wrong = [proof for proof in proofs if not proof.holds and not proof.detail.startswith("not tried")]
        if context.as_json:
            context.print_json(
                {
                    "name": pipeline.plan.name,
                    "route": route,
                    "calls": len(sent),
                    "proofs": [{"name": p.name, "holds": p.holds, "detail": p.detail} for p in proofs],
                }
            )
        else:
            _show_proofs(proofs)
            click.echo(_advice(pipeline))
        if wrong:
            raise EngineError(f"{wrong[0].name}: {wrong[0].detail}")


@command.command("status")
@_route
@_query_path
@_oversample
@pass_context
def status(context: Context, route: Route, query_path: str | None, oversample: int) -> None:
    """Show every piece, what differs from the settings, and how often reranking failed."""
    settings = context.settings()
    if settings.engine.kind == "elasticsearch":
        from connector.cli import inference_endpoint

        inference_endpoint.status(context, settings)
        return
    with _Opened(settings, route, query_path, oversample) as pipeline:
        found = pipeline.find()
        drift = pipeline.drift(found)
        pieces = _pieces(found)
        statistics = pipeline.statistics()
        reach = _predict(pipeline, found)
        if context.as_json:
            context.print_json(
                {
                    "name": pipeline.plan.name,
                    "pieces": pieces,
                    "drift": drift,
                    "default_for": list(found.indices),
                    "statistics": statistics,
                    "service": {"reached": reach.holds, "detail": reach.detail},
                }
            )
        else:
            for name, state in pieces.items():
                click.echo(f"{name:<14}{state}")
            click.echo(f"{'default for':<14}{', '.join(found.indices) or '-'}")
            click.echo(f"{'reranked':<14}{statistics['count']} pages, {statistics['failed']} failed")
            click.echo(f"{'service':<14}{'reached, ' if reach.holds else 'NOT REACHED: '}{reach.detail}")
            for line in drift:
                click.echo(f"{'differs':<14}{line}")
        if drift or not reach.holds:
            what = "; ".join(drift) if drift else reach.detail
            raise EngineError(f"pipeline {pipeline.plan.name}: {what}; rh-connector pipeline install mends it")


@command.command("uninstall")
@click.option("--dry-run", is_flag=True, help="Print the calls, ready for a shell, and change nothing.")
@pass_context
def uninstall(context: Context, dry_run: bool) -> None:
    """Remove exactly what install made, and set the cluster's settings back."""
    from connector.writeback.calls import curl

    settings = context.settings()
    if settings.engine.kind == "elasticsearch":
        from connector.cli import inference_endpoint

        inference_endpoint.uninstall(context, settings, dry_run)
        return
    with _Opened(settings, "rerank", None, 1, removes=True) as pipeline:
        if dry_run:
            for call in pipeline.removal(pipeline.find()):
                click.echo(f"# {call.why}\n{curl(call, pipeline.connection.url)}")
            return
        pipeline.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        sent = pipeline.uninstall()
        if context.as_json:
            context.print_json({"name": pipeline.plan.name, "calls": len(sent)})
        else:
            click.echo("removed" if sent else f"nothing of {pipeline.plan.name} is installed")


class _Opened:
    """The pipeline that the settings name, while a command runs."""

    def __init__(
        self, settings: Settings, route: Route, query_path: str | None, oversample: int, removes: bool = False
    ) -> None:
        from connector.engines.connection import connect
        from connector.writeback.opensearch import OpenSearchPipeline
        from connector.writeback.search_pipeline import PipelinePlan

        if settings.engine.kind != "opensearch":
            raise SettingsError(
                f"engine.kind = {settings.engine.kind}: there is no cluster to install into; "
                "set engine.kind to opensearch or elasticsearch"
            )
        if removes:
            plan = PipelinePlan(settings.writeback.name, "http://localhost", ("text",))
        else:
            plan = PipelinePlan.of(settings, route, query_path, oversample)
        keys = settings.serve.api_keys
        self._connection: Connection = connect(settings.engine)
        key = keys[0].get_secret_value() if keys else "none"
        self._pipeline = OpenSearchPipeline(self._connection, plan, key)

    def __enter__(self) -> OpenSearchPipeline:
        return self._pipeline

    def __exit__(self, *_: Any) -> None:
        self._connection.close()


def _prove(pipeline: OpenSearchPipeline, settings: Settings) -> list[Proof]:
    from connector.writeback.proving import prove_searches

    first = _predict(pipeline, pipeline.find())
    if not first.holds:
        return [first]
    return [first, *prove_searches(pipeline.connection, pipeline.plan, settings.engine.index)]


def _predict(pipeline: OpenSearchPipeline, found: Found) -> Proof:
    from connector.writeback.proving import Proof, predict

    if found.model is None:
        return Proof("_predict with two documents", False, "there is no model")
    # The way that is installed, whichever is asked about.
    scores = "ml_inference" in str(found.pipeline)
    return predict(
        pipeline.connection, replace(pipeline.plan, route="scores" if scores else "rerank"), found.model[0]
    )


def _pieces(found: Found) -> dict[str, str]:
    def named(part: Any) -> str:
        return "missing" if part is None else str(part[0])

    state = "" if found.model is None else f" ({found.model[1].get('model_state')})"
    return {
        "settings": "missing" if found.record is None else "set",
        "connector": named(found.connector),
        "model group": named(found.group),
        "model": named(found.model) + state,
        "pipeline": "missing" if found.pipeline is None else "there",
    }


def _show_proofs(proofs: list[Proof]) -> None:
    for proof in proofs:
        click.echo(f"{'ok' if proof.holds else '--':<4}{proof.name}: {proof.detail}")


def _advice(pipeline: OpenSearchPipeline) -> str:
    plan = pipeline.plan
    query_clause = {"multi_match": {"query": "QUERY", "fields": list(plan.fields)}}
    body = json.dumps(plan.search("QUERY", query_clause), ensure_ascii=False)
    query = "its query text in ext" if plan.query_path is None else f"its query text in {plan.query_path}"
    told = (
        "an answer that was reranked has the key profile"
        if plan.route == "rerank"
        else "a hit that was reranked has previous_score in its _source"
    )
    return (
        f"\nSearch with ?search_pipeline={plan.name} and a body like\n  {body}\n"
        f"Each request needs {query}; without it, and whenever the service fails, hits keep the cluster's order.\n"
        f"Only the page (from, size) is reranked: --oversample N reranks N times as many.\n"
        f"_source must hold {', '.join(plan.fields)}. Was it reranked? {told}.\n"
        f"rh-connector pipeline status counts failures; pipeline uninstall removes everything."
    )
