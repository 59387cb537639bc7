"""``rh-connector pipeline``: reranked results back through the cluster's own search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from connector.cli.context import Context, pass_context
from connector.cli.highlighter import example, highlighter_of, install_highlighter, planned, show_state, state_of
from connector.cli.pipeline_options import Chosen, opened, opened_for_removal, pipeline_options
from connector.cli.pipeline_output import advice, pieces_of, show_calls, show_proofs, show_retrievers, told_plugin
from connector.errors import EngineError, SettingsError
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.writeback.elasticsearch import ElasticsearchEndpoint
    from connector.writeback.inference_endpoint import InferencePlan, Service
    from connector.writeback.opensearch import Found, OpenSearchPipeline
    from connector.writeback.proving import Proof

_service = click.option(
    "--service",
    type=click.Choice(["hugging_face", "custom"]),
    help="Elasticsearch: its way to call us; without it the one that is installed, else hugging_face.",
)


@click.group("pipeline")
def command() -> None:
    """Install, show and remove what makes a cluster's own searches come back reranked.

    OpenSearch: a search pipeline, its model and connector. Elasticsearch: an inference endpoint. Settings:
    writeback.service_url, engine.url, engine.fields, serve.api_keys (the first one is given to the cluster). See
    docs/opensearch.md and docs/elasticsearch.md.
    """


@command.command("install")
@pipeline_options
@click.option(
    "--default-for",
    metavar="INDEX",
    help="Make it the default pipeline of that index; refused where that would switch off another one.",
)
@click.option("--highlight", is_flag=True, help="Also make a model for the semantic highlighter (OpenSearch 3).")
@_service
@click.option("--dry-run", is_flag=True, help="Print the calls, ready for a shell, and change nothing.")
@pass_context
def install(
    context: Context,
    chosen: Chosen,
    default_for: str | None,
    highlight: bool,
    service: Service | None,
    dry_run: bool,
) -> None:
    """Make what is missing, then prove that it works. Running it again changes nothing that is right.

    Where a step or its proof fails, the steps before it are undone.
    """
    from connector.writeback.proving import overwritten

    settings = context.settings()
    if _is_elasticsearch(settings, chosen, service, default_for, highlight):
        _install_endpoint(context, settings, service, dry_run)
        return
    with opened(settings, chosen) as pipeline:
        found = pipeline.find()
        highlighter = highlighter_of(pipeline, highlight)
        if dry_run:
            show_calls(context, [*pipeline.calls(found, default_for), *planned(highlighter)], pipeline.connection.url)
            return
        pipeline.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        shown = overwritten(pipeline.connection, pipeline.plan, settings.engine.index)
        if shown is not None:
            raise EngineError(
                f"--route scores: hits would show the first-stage score as {shown} in _source, over the field of "
                f"that name in {settings.engine.index}; use --route rerank, or the gateway"
            )
        sent = pipeline.install(default_for)
        proofs = _prove(pipeline, settings)
        if proofs[0].status == 401 and not found.is_empty:
            # The cluster does not show the key that it has: a refusal is how a changed one is noticed.
            pipeline.renew_key()
            proofs = _prove(pipeline, settings)
        # A page in the cluster's order is no fault of what was made; a call or search that fails may be one.
        failed = next((p for p in proofs if not p.holds and (p is proofs[0] or p.status is not None)), None)
        if failed is not None and pipeline.take_back():
            left = "Nothing was left in the cluster." if found.is_empty else "The cluster is as it was before."
            raise EngineError(f"{failed.name}: {failed.detail}. {left}")
        if highlighter is not None:
            more, marked = install_highlighter(highlighter, settings.engine.index)
            sent, proofs = [*sent, *more], [*proofs, *marked]
        wrong = [proof for proof in proofs if not proof.holds and not proof.detail.startswith("not tried")]
        if context.as_json:
            context.print_json(
                {
                    "name": pipeline.plan.name,
                    "pipeline": pipeline.plan.searched,
                    "route": pipeline.plan.route,
                    "calls": len(sent),
                    "proofs": [{"name": p.name, "holds": p.holds, "detail": p.detail} for p in proofs],
                    "highlight": None if highlighter is None else example(highlighter),
                }
            )
        else:
            show_proofs(proofs)
            click.echo(advice(pipeline))
            if highlighter is not None:
                click.echo(f"Sentences that answer, marked: add\n  {json.dumps(example(highlighter))[1:-1]}")
        if wrong:
            raise EngineError(f"{wrong[0].name}: {wrong[0].detail}")


@command.command("status")
@pipeline_options
@_service
@pass_context
def status(context: Context, chosen: Chosen, service: Service | None) -> None:
    """Show every piece, what differs from the settings, and how often reranking failed."""
    settings = context.settings()
    if _is_elasticsearch(settings, chosen, service):
        _show_endpoint(context, settings, service)
        return
    with opened(settings, chosen) as pipeline:
        found = pipeline.find()
        drift = pipeline.drift(found)
        pieces = pieces_of(found)
        statistics, plugin = pipeline.statistics(), pipeline.plugin_statistics()
        reach = _predict(pipeline, found)
        highlighter = highlighter_of(pipeline)
        marks = None if highlighter is None else state_of(highlighter)
        if context.as_json:
            context.print_json(
                {
                    "name": pipeline.plan.name,
                    "pieces": pieces,
                    "drift": drift,
                    "default_for": list(found.indices),
                    "in": list(found.hosts),
                    "statistics": statistics,
                    "neural_stats": plugin,
                    "service": {"reached": reach.holds, "detail": reach.detail},
                    "highlight": marks,
                }
            )
        else:
            for name, state in pieces.items():
                click.echo(f"{name:<14}{state}")
            click.echo(f"{'default for':<14}{', '.join(found.indices) or '-'}")
            click.echo(f"{'reranked':<14}{statistics['count']} pages, {statistics['failed']} failed")
            if plugin is not None:
                click.echo(f"{'neural stats':<14}{told_plugin(plugin)}")
            click.echo(f"{'service':<14}{'reached, ' if reach.holds else 'NOT REACHED: '}{reach.detail}")
            show_state(marks)
            for line in drift:
                click.echo(f"{'differs':<14}{line}")
        if marks is not None and (marks["drift"] or not marks["reached"]):
            drift = [*drift, f"highlighter: {'; '.join(marks['drift']) or marks['detail']}"]
        if drift or not reach.holds:
            what = "; ".join(drift) if drift else reach.detail
            raise EngineError(f"pipeline {pipeline.plan.name}: {what}; rh-connector pipeline install mends it")


@command.command("uninstall")
@click.option("--dry-run", is_flag=True, help="Print the calls, ready for a shell, and change nothing.")
@pass_context
def uninstall(context: Context, dry_run: bool) -> None:
    """Remove exactly what install made, and set the cluster's settings back."""
    settings = context.settings()
    if settings.engine.kind == "elasticsearch":
        _uninstall_endpoint(context, settings, dry_run)
        return
    with opened_for_removal(settings) as pipeline:
        highlighter = highlighter_of(pipeline)
        if dry_run:
            marks = [] if highlighter is None else highlighter.removal(highlighter.find())
            show_calls(context, [*marks, *pipeline.removal(pipeline.find())], pipeline.connection.url)
            return
        pipeline.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        sent = [] if highlighter is None else highlighter.uninstall()
        sent += pipeline.uninstall()
        if context.as_json:
            context.print_json({"name": pipeline.plan.name, "calls": len(sent)})
        else:
            click.echo("removed" if sent else f"nothing of {pipeline.plan.name} is installed")


def _is_elasticsearch(
    settings: Settings,
    chosen: Chosen,
    service: Service | None,
    default_for: str | None = None,
    highlight: bool = False,
) -> bool:
    """Whose functions are asked for; options of the other kind are refused."""
    if settings.engine.kind == "elasticsearch":
        given = [
            *chosen.given,
            *(["--default-for"] if default_for else []),
            *(["--highlight"] if highlight else []),
        ]
        if given:
            raise SettingsError(
                f"engine.kind = elasticsearch: {', '.join(given)} {'is' if len(given) == 1 else 'are'} OpenSearch's; "
                "leave it out"
            )
        return True
    if service is not None:
        raise SettingsError(f"engine.kind = {settings.engine.kind}: --service is Elasticsearch's; leave it out")
    return False


def _install_endpoint(context: Context, settings: Settings, service: Service | None, dry_run: bool) -> None:
    from connector.writeback.inference_endpoint import InferencePlan

    with _opened_endpoint(settings, InferencePlan.of(settings, service)) as endpoint:
        if dry_run:
            show_calls(context, endpoint.calls(endpoint.find()), endpoint.connection.url)
            return
        sent = endpoint.install()
        scores = endpoint.prove()
        if context.as_json:
            plan = endpoint.plan
            examples = {"retriever": plan.retriever("QUERY"), "weighted": plan.weighted("QUERY")}
            context.print_json({"name": plan.name, "calls": len(sent), "scores": scores, **examples})
            return
        click.echo(f"ok  two documents through the endpoint: scores {scores[0]:.3f} and {scores[1]:.3f}")
        show_retrievers(endpoint.plan)


def _show_endpoint(context: Context, settings: Settings, service: Service | None) -> None:
    from connector.writeback.inference_endpoint import InferencePlan

    with _opened_endpoint(settings, InferencePlan.of(settings, service)) as endpoint:
        endpoint.told = lambda call: None
        name, found = endpoint.plan.name, endpoint.find()
        # Raises for an endpoint of somebody else, which install would not mend.
        list(endpoint.calls(found))
        drift = endpoint.drift(found)
        reached, detail = False, "not tried"
        if found is not None:
            try:
                scores = endpoint.prove()
                reached, detail = True, f"scores {scores[0]:.3f} and {scores[1]:.3f}"
            except EngineError as error:
                detail = str(error)
        if context.as_json:
            reach = {"reached": reached, "detail": detail}
            context.print_json({"name": name, "endpoint": found, "drift": drift, "service": reach})
        else:
            click.echo(f"{'endpoint':<14}{'missing' if found is None else found['service']}")
            click.echo(f"{'service':<14}{'reached, ' if reached else 'NOT REACHED: '}{detail}")
            for line in drift:
                click.echo(f"{'differs':<14}{line}")
        if drift:
            raise EngineError(
                f"inference endpoint {name}: {'; '.join(drift)}; rh-connector pipeline install mends it"
            )
        if not reached:
            raise EngineError(f"inference endpoint {name}: {detail}")


def _uninstall_endpoint(context: Context, settings: Settings, dry_run: bool) -> None:
    from connector.writeback.inference_endpoint import InferencePlan

    with _opened_endpoint(settings, InferencePlan.for_removal(settings)) as endpoint:
        if dry_run:
            show_calls(context, endpoint.removal(endpoint.find()), endpoint.connection.url)
            return
        sent = endpoint.uninstall()
        if context.as_json:
            context.print_json({"name": endpoint.plan.name, "calls": len(sent)})
        else:
            click.echo("removed" if sent else f"nothing of {endpoint.plan.name} is installed")


@contextmanager
def _opened_endpoint(settings: Settings, plan: InferencePlan) -> Iterator[ElasticsearchEndpoint]:
    from connector.engines.cluster.connect import connect
    from connector.writeback.elasticsearch import ElasticsearchEndpoint

    keys = settings.serve.api_keys
    connection = connect(settings.engine)
    try:
        yield ElasticsearchEndpoint(
            connection,
            plan,
            keys[0].get_secret_value() if keys else "none",
            lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True),
        )
    finally:
        connection.close()


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
    return predict(pipeline.connection, pipeline.plan.as_installed(found.holding), found.model[0])
