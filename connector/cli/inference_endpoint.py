"""``rh-connector pipeline`` for Elasticsearch: an inference endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from connector.cli.context import Context
from connector.errors import EngineError
from connector.settings import Settings

if TYPE_CHECKING:
    from connector.writeback.elasticsearch import ElasticsearchEndpoint

_ADVICE = """
Search with
  {retriever}
The retriever sends texts in the order of the shards and without scores, so the service cannot fuse with the first
stage, and a small LLM alone often ranks worse than BM25. Get it back with both, weighted:
  {weighted}
or put the gateway in front of the cluster (docs/gateway.md)."""


def install(context: Context, settings: Settings, dry_run: bool) -> None:
    """Make the endpoint, or show how."""
    from connector.writeback.calls import curl

    with _opened(settings) as endpoint:
        found = endpoint.find()
        if dry_run:
            for call in endpoint.calls(found):
                click.echo(f"# {call.why}\n{curl(call, endpoint.connection.url)}")
            return
        endpoint.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        sent = endpoint.install()
        try:
            scores = endpoint.prove()
        except EngineError:
            if found is None:
                endpoint.uninstall()
            raise
        if context.as_json:
            context.print_json({"name": endpoint.plan.name, "calls": len(sent), "scores": scores})
            return
        click.echo(f"ok  two documents through the endpoint: scores {scores[0]:.3f} and {scores[1]:.3f}")
        plan = endpoint.plan
        examples = {"retriever": plan.retriever("QUERY"), "weighted": plan.weighted("QUERY")}
        click.echo(_ADVICE.format(**{name: json.dumps(body) for name, body in examples.items()}))


def status(context: Context, settings: Settings) -> None:
    """Show the endpoint, and whether the cluster reaches the service through it."""
    with _opened(settings) as endpoint:
        found = endpoint.find()
        drift = [call.why for call in endpoint.calls(found)]
        reached, detail = False, "not tried"
        if found is not None:
            try:
                scores = endpoint.prove()
                reached, detail = True, f"scores {scores[0]:.3f} and {scores[1]:.3f}"
            except EngineError as error:
                detail = str(error)
        if context.as_json:
            service = {"reached": reached, "detail": detail}
            context.print_json({"name": endpoint.plan.name, "endpoint": found, "drift": drift, "service": service})
        else:
            click.echo(f"{'endpoint':<14}{'missing' if found is None else endpoint.plan.name}")
            click.echo(f"{'service':<14}{'reached, ' if reached else 'NOT REACHED: '}{detail}")
        if drift or not reached:
            what = "differs from the settings" if drift else detail
            raise EngineError(
                f"inference endpoint {endpoint.plan.name}: {what}; rh-connector pipeline install mends it"
            )


def uninstall(context: Context, settings: Settings, dry_run: bool) -> None:
    """Remove the endpoint, or show how."""
    from connector.writeback.calls import curl

    with _opened(settings) as endpoint:
        if dry_run:
            for call in endpoint.removal(endpoint.find()):
                click.echo(f"# {call.why}\n{curl(call, endpoint.connection.url)}")
            return
        endpoint.told = lambda call: click.echo(f"{call.method} {call.path}  {call.why}", err=True)
        sent = endpoint.uninstall()
        if context.as_json:
            context.print_json({"name": endpoint.plan.name, "calls": len(sent)})
        else:
            click.echo("removed" if sent else f"nothing of {endpoint.plan.name} is installed")


@contextmanager
def _opened(settings: Settings) -> Iterator[ElasticsearchEndpoint]:
    from connector.engines.connection import connect
    from connector.writeback.elasticsearch import ElasticsearchEndpoint, InferencePlan

    plan = InferencePlan.of(settings)
    keys = settings.serve.api_keys
    connection = connect(settings.engine)
    try:
        yield ElasticsearchEndpoint(connection, plan, keys[0].get_secret_value() if keys else "none")
    finally:
        connection.close()
