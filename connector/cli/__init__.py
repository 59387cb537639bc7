"""The ``rh-connector`` command. One module a command; a command's module is imported when it is called."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import traceback
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem

from connector import __version__
from connector.cli.context import Context
from connector.cli.global_options import CLIENT_LOGS, OFFLINE, global_options, log_every_step, with_global_options
from connector.cli.own_process import keep_big_buffers, wait_briefly
from connector.credentials import Redacting, redact_tracebacks, redacted
from connector.errors import DataError, MissingExtraError, RhConnectorError
from connector.installation import extra_of
from connector.storage_faults import is_storage_fault, storage_mend

__all__ = ["cli", "main"]

_COMMANDS = {
    "demo": "Real documents, real model, no set-up: before and after for some questions.",
    "init": "Find a cluster's indexes and text fields, try a search, write config.yaml.",
    "model": "List, fetch and show the language models.",
    "index": "Put documents into the engine's index.",
    "cache": "The encoded documents on disk: status, prune, verify, export, sync.",
    "search": "Search, rerank, and show what moved.",
    "rerank": "Rerank JSON lines from standard input, or a whole TREC run.",
    "train": "Train a router for a model, or find the heads that rank best.",
    "export": "Write a trained router as an ONNX bundle, or show what one holds.",
    "evaluate": "Measure first stage, heads and fusion on a judged collection.",
    "bench": "Time reranking against a small cross-encoder and others, on this machine.",
    "serve": "Answer rerank requests over HTTP.",
    "pipeline": "Reranked results through the cluster's own searches: install, status, uninstall.",
    "doctor": "Check machine, model, cluster and write-back, and say how to mend what is wrong.",
    "settings": "Show every setting with its value and default.",
}


class _LazyGroup(click.Group):
    """Knows its commands by name, so that ``--help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"connector.cli.commands.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return with_global_options(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], _COMMANDS, 1)
            raise click.UsageError(
                f"{error.message} Did you mean {near[0]!r}?" if near else error.message, ctx
            ) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Without importing the commands: a shell waits for this at each key.
        names = [CompletionItem(name, help=told) for name, told in _COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rh-connector")
@click.pass_context
def cli(
    ctx: click.Context, config: str | None, assignments: tuple[str, ...], offline: bool, as_json: bool, debug: bool
) -> None:
    """Rerank search hits with what a frozen language model knows.

    The options stand before a command's name or behind it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacting("%(name)s: %(message)s"))
    # Where Python called and has set up its log, that stays.
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in CLIENT_LOGS:
        # The clients log each request that a cluster refuses; what matters of it is in our own message.
        logging.getLogger(name).setLevel(logging.ERROR)
    if debug:
        log_every_step()
    # Whoever calls from Python may bring models that are loaded.
    given = ctx.obj if isinstance(ctx.obj, Context) else Context()
    if offline:
        assignments = (*assignments, OFFLINE)
    ctx.obj = replace(given, config=config, assignments=assignments, as_json=as_json, debug=debug)


# Before --version and --help, in the order of the help.
cli.params[:0] = global_options()


def main(arguments: list[str] | None = None, obj: Context | None = None) -> Any:
    """Run the command line; errors are one line on standard error and an exit code (see errors.py).

    Args:
        arguments: without the program's name; None: those of the process.
        obj: holds the models that the command uses; None: they are loaded where one is needed.
    """
    if arguments is None:
        # A process of our own. Where Python called, it is the caller's.
        keep_big_buffers()
        wait_briefly()
        redact_tracebacks()
        arguments = sys.argv[1:]
    try:
        sys.exit(cli.main(args=arguments, prog_name="rh-connector", standalone_mode=False, obj=obj) or 0)
    except click.exceptions.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(redacted(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (RhConnectorError, ModuleNotFoundError, OSError) as error:
        told = _told(error)
        if told is None:
            raise
        if "--debug" in arguments:
            click.echo(redacted(traceback.format_exc()), err=True, nl=False)
        else:
            click.echo(f"Error: {redacted(str(told))}", err=True)
        sys.exit(told.exit_code)


def _told(error: RhConnectorError | ModuleNotFoundError | OSError) -> RhConnectorError | None:
    """The error as it is told; None: it is a fault of the program.

    Wherever they come up, a package that an extra brings may be missing, and a disk may be full or closed.
    """
    if isinstance(error, RhConnectorError):
        return error
    if isinstance(error, OSError):
        if not is_storage_fault(error):
            return None
        mend = storage_mend(error, "name another file or folder")
        return DataError(f"cannot write {error.filename or 'the output'}: {error.strerror}; {mend}")
    extra = extra_of(error.name or "")
    return None if extra is None or error.name is None else MissingExtraError(error.name, extra)
