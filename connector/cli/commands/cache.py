"""``rh-connector cache``: the documents that are kept encoded on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.filesize import decimal

from connector.cli.context import Context, pass_context
from connector.cli.precompute import what_is_kept
from connector.cli.progress import progress
from connector.credentials import redacted
from connector.errors import BackboneError, EngineError, SettingsError
from connector.reranking.second_settings import without_second
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.backbone.caching.sqlite_store import PassageStore

_MILLION = 1_000_000


@click.group("cache")
def command() -> None:
    """The encoded documents on disk: what is there, make it smaller, check it, follow an index, share them."""


@command.command("status")
@pass_context
def status(context: Context) -> None:
    """What is kept, how large a document is, and what a million of them would need."""
    settings = context.settings()
    with _existing(settings) as store:
        facts = _facts(settings, store)
    if context.as_json:
        context.print_json(facts)
        return
    for label, value in _lines(facts):
        click.echo(f"{label:14}{value}")


@command.command("prune")
@click.option("--to-mb", type=click.IntRange(min=0), help="Keep so many MB at most; default: cache.disk_mb.")
@click.option("--all", "everything", is_flag=True, help="Keep nothing; a damaged file is deleted too.")
@pass_context
def prune(context: Context, to_mb: int | None, everything: bool) -> None:
    """Remove the documents that were not used for longest, and give their room back to the disk."""
    from connector.backbone.caching.followed_index import forget_followed
    from connector.backbone.caching.sqlite_store import remove_store, store_path

    settings = context.settings()
    if everything and to_mb is not None:
        raise SettingsError("--all keeps nothing; leave out --to-mb")
    if not everything and to_mb is None and not settings.cache.disk_mb:
        raise SettingsError("cache.disk_mb = 0 says not how much to keep; give --to-mb or --all")
    keep = 0 if everything else (settings.cache.disk_mb if to_mb is None else to_mb) * _MILLION
    removed = vectors = 0
    try:
        with _existing(settings) as store:
            if store is not None:
                vectors = store.status().vectors
                if everything:
                    forget_followed(store.path)
                removed = store.shrink(keep)
            facts = _facts(settings, store)
    except BackboneError:
        if not everything:
            raise
        remove_store(store_path(settings.cache.path))
        facts = _facts(settings, None)
    if context.as_json:
        context.print_json(
            {"removed": removed, **{name: facts[name] for name in ("passages", "vectors", "file_bytes")}}
        )
    else:
        left = facts["passages"] + facts["vectors"]
        click.echo(
            f"removed {removed:,} {what_is_kept(vectors > 0)}; {left:,} are left ({decimal(facts['file_bytes'])})"
        )


@command.command("verify")
@pass_context
def verify(context: Context) -> None:
    """Read every document, and drop those that are damaged: they are encoded again when they are needed."""
    settings = context.settings()
    started = time.perf_counter()
    checked = damaged = vectors = 0
    with _existing(settings) as store:
        if store is not None:
            console = Console(stderr=True)
            vectors = store.status().vectors
            checked, damaged = store.verify(lambda keys: progress(console, "checking", keys, len(keys)))
    seconds = round(time.perf_counter() - started, 3)
    if context.as_json:
        context.print_json({"checked": checked, "damaged": damaged, "seconds": seconds})
    else:
        click.echo(
            f"checked {checked:,} {what_is_kept(vectors > 0)}, {damaged:,} damaged and dropped ({seconds:.1f} s)"
        )


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@pass_context
def export(context: Context, file: Path) -> None:
    """Write all documents into FILE, for machines that only read it (cache.shared); what was there is replaced.

    FILE may lie on a volume that many machines mount. Those that read an older one see the new one within a minute.
    """
    from connector.backbone.caching.shared_cache import export_store
    from connector.backbone.caching.sqlite_store import store_path

    size = export_store(store_path(context.settings().cache.path), file)
    if context.as_json:
        context.print_json({"path": str(file), "file_bytes": size})
    else:
        click.echo(f"wrote {file} ({decimal(size)}); read it elsewhere with --set cache.shared={file}")


@command.command("sync")
@click.option("--index", metavar="NAME", help="Index that is followed (engine.index).")
@click.option(
    "--by", default="seq_no", metavar="FIELD", show_default=True, help="Look only at new dates of this field."
)
@click.option("--every", type=click.FloatRange(min=1), metavar="SECONDS", help="Go on, with so much time in between.")
@pass_context
def follow(context: Context, index: str | None, by: str, every: float | None) -> None:
    """Follow a cluster's index: encode new and changed documents, drop what changed or deleted ones had.

    By default the sequence numbers of all documents are compared with those of the last time. --by FIELD asks the
    index only for documents with a new date in that field, and looks at all where their number is another than
    expected. A document that is changed without a new date is then not seen.

    When it was interrupted, the same command continues.
    """
    from connector.cli.sync import Synced, check_sync, sync
    from connector.engines.index_names import naming_indexes
    from connector.engines.open_engine import open_engine

    settings = context.settings(engine__index=index)
    check_sync(settings)
    field = None if by in ("seq_no", "_seq_no") else by
    console = Console(stderr=True)

    def tell(done: Synced) -> None:
        if context.as_json:
            context.print_json({"index": settings.engine.index, **asdict(done)})
        else:
            click.echo(
                f"{done.documents:,} documents of {settings.engine.index} in the cache: {done.added:,} new, "
                f"{done.changed:,} changed, {done.deleted:,} deleted; encoded {done.encoded:,} "
                f"{done.counted}, dropped {done.dropped:,} ({done.seconds:.1f} s); "
                f"the cache takes {decimal(done.file_bytes)}"
            )

    with naming_indexes(settings), open_engine(settings) as engine:
        # A missing index is told before the model is loaded.
        engine.get([])
        reranker = context.models.reranker(without_second(settings))

        def once() -> Synced:
            return sync(
                reranker, settings, engine, field, lambda names: progress(console, "encoding", names, len(names))
            )

        try:
            tell(once())
            while every is not None:
                time.sleep(every)
                try:
                    tell(once())
                except EngineError as error:
                    click.echo(f"{redacted(str(error))}; once more in {every:g} s", err=True)
        finally:
            reranker.close()


@contextmanager
def _existing(settings: Settings) -> Iterator[PassageStore | None]:
    """The store; None where nothing was ever kept: looking makes no file."""
    from connector.backbone.caching.sqlite_store import PassageStore, store_path

    path = store_path(settings.cache.path)
    if not path.is_file():
        yield None
        return
    with closing(PassageStore(path, settings.cache.disk_mb * _MILLION)) as store:
        yield store


def _facts(settings: Settings, store: PassageStore | None) -> dict[str, Any]:
    from connector.backbone.caching.sqlite_store import StoreStatus, store_path

    held = StoreStatus(0, 0, 0, 0, 0, 0, None, None) if store is None else store.status()
    # With its vector and what the file needs beside the states, without its log.
    each = None if store is None or not held.passages else store.used_bytes() / held.passages
    return {
        "path": str(store_path(settings.cache.path)),
        "limit_bytes": settings.cache.disk_mb * _MILLION,
        **asdict(held),
        "bytes_per_passage": None if each is None else round(each),
        "tokens_per_passage": None if each is None else round(held.tokens / held.passages, 1),
        "million_passages_bytes": None if each is None else round(each * _MILLION),
    }


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    limit = facts["limit_bytes"]
    yield "file", facts["path"]
    yield "at most", decimal(limit) if limit else "off: cache.disk_mb = 0"
    yield "passages", f"{facts['passages']:,} ({facts['tokens']:,} tokens)"
    if facts["vectors"]:
        yield "vectors", f"{facts['vectors']:,} of an embedding model"
    yield "on disk", f"{decimal(facts['file_bytes'])}, of these {decimal(facts['free_bytes'])} free"
    if facts["passages"]:
        yield "a passage", f"{decimal(facts['bytes_per_passage'])} ({facts['tokens_per_passage']} tokens)"
        yield "a million", f"{decimal(facts['million_passages_bytes'])}, at one passage a document"
        yield "used", f"{_moment(facts['oldest'])} to {_moment(facts['newest'])}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
