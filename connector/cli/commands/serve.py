"""``rh-connector serve``: the HTTP service."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import click

from connector.cli.context import Context, pass_context
from connector.cli.models import Models
from connector.errors import BackboneError, MissingExtraError, SettingsError
from connector.sections import Settings


@click.command("serve")
@click.option("--host", metavar="ADDRESS", help="Address to listen on (serve.host).")
@click.option("--port", type=int, metavar="PORT", help="Port to listen on; 0: a free one (serve.port).")
@click.option("--get", "path", metavar="PATH", help="Print the answer to GET PATH, without a port, and end.")
@pass_context
def command(context: Context, host: str | None, port: int | None, path: str | None) -> None:
    """Answer rerank requests over HTTP: Cohere, Jina, TEI, vLLM and Elasticsearch clients work unchanged.

    The address is printed at once; GET /ready answers 200 when the model is loaded. See docs/http-api.md.
    """
    settings = context.settings(serve__host=host, serve__port=port)
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "serve")
    if path is not None:
        _get(context.models, settings, path)
        return
    from connector.service.server import run_server

    for warning in _warnings(settings):
        click.echo(f"Warning: {warning}", err=True)

    def announce(url: str) -> None:
        if context.as_json:
            context.print_json({"url": url})
        else:
            click.echo(f"Listening on {url}")

    run_server(context.models.reranker, settings, announce)


def _get(models: Models, settings: Settings, path: str) -> None:
    from connector.service.server import answer_once

    answer = answer_once(models.reranker, settings, path)
    click.echo(answer.body)
    if answer.status in (404, 405):
        raise SettingsError(f"GET {path} is not a route; see rh-connector serve --get /openapi.json")
    if answer.status >= 400:
        raise BackboneError(f"GET {path} was answered {answer.status}")


def _warnings(settings: Settings) -> Iterator[str]:
    """What whoever starts the service should know before others reach it."""
    from connector.service.page.access import closed_because, is_loopback

    serve = settings.serve
    if serve.api_keys:
        return
    if "api_keys" in serve.model_fields_set:
        yield "serve.api_keys is set and holds no key: everybody is let in; give a key, or leave it out"
    if is_loopback(serve.host):
        return
    if settings.has_gateway:
        may = "can read what this service can read in the cluster"
    elif closed_because(settings) is None:
        may = f"can read the index {settings.engine.index} on the page, and make the model work"
    else:
        may = "can make the model work"
    yield (
        f"{serve.host} is reachable from other machines and serve.api_keys is empty: everybody who reaches it "
        f"{may}; set serve.api_keys, or serve.host to 127.0.0.1"
    )
