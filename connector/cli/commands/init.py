"""``rh-connector init``: a first config.yaml, from what a cluster or the embedded engine has."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connector.cli.context import Context, pass_context
from connector.cli.hit_table import printable
from connector.documents import clean_text
from connector.errors import DataError, EngineError, MissingExtraError, SettingsError
from connector.sections import CLUSTER_KINDS, EngineSettings, Settings
from connector.storage_faults import storage_mend
from connector.whole_files import replacing

if TYPE_CHECKING:
    from connector.engines.engine import Engine

_KINDS = ("embedded", *CLUSTER_KINDS)
# They are read from the environment; the file goes into repositories and images.
_CREDENTIALS = ("username", "password", "api_key", "bearer_token")
_TITLES = frozenset({"title", "name", "headline", "subject"})
_WORDS = 6


@dataclass(frozen=True, slots=True)
class _Written:
    """What is told at the end; the keys of ``--json``."""

    file: str
    kind: str
    url: str | None
    index: str
    fields: tuple[str, ...]
    documents: int
    query: str | None
    hits: int
    variables: tuple[str, ...]
    next: str


@click.command("init")
@click.option("--url", metavar="URL", help="URL of the cluster; empty: the embedded engine (engine.url).")
@click.option("--kind", type=click.Choice(_KINDS), help="Default: the cluster is asked (engine.kind).")
@click.option("--index", metavar="NAME", help="Default: the only one that there is (engine.index).")
@click.option("--fields", metavar="NAMES", help="As in title^2,text. Default: all text fields (engine.fields).")
@click.option("--query", metavar="TEXT", help="Search that is tried. Default: the first words of a document.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="config.yaml", help="File to write.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@pass_context
def command(
    context: Context,
    url: str | None,
    kind: str | None,
    index: str | None,
    fields: str | None,
    query: str | None,
    out: Path,
    force: bool,
) -> None:
    """Find indexes and text fields, try one search, and write config.yaml.

    What no option names is asked for on a terminal, and never elsewhere. Credentials come from the environment
    (RH_ENGINE__USERNAME, RH_ENGINE__PASSWORD, RH_ENGINE__API_KEY); they are never written.
    """
    if out.exists() and not force:
        raise SettingsError(f"{out} is there already; give --force to write over it, or --out for another file")
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    given = context.settings(engine__kind=kind, engine__index=index, engine__fields=fields)
    # What a file, the environment or --set names counts as an option does.
    if "index" in given.engine.model_fields_set:
        index = given.engine.index
    if given.engine.fields:
        fields = ",".join(given.engine.fields)
    if url is None and asks and kind != "embedded" and given.engine.url is None:
        url = click.prompt("URL of the cluster (empty: the embedded index)", default="", show_default=False, err=True)
    settings = _reached(context, given, (url or "").strip() or given.engine.url, kind)
    settings, names = _with_index(settings, index, asks)
    program = "rh-connector" if out == Path("config.yaml") else f"rh-connector --config {shlex.quote(str(out))}"
    new_index = f"{program} index SOURCE"
    if settings.engine.index not in names:
        told = _told(settings, out)
        _write(out, settings, context, _Written(**told, documents=0, query=None, hits=0, next=new_index))
        return
    settings = _with_fields(settings, fields, asks)
    from connector.engines.open_engine import open_engine

    with closing(open_engine(settings)) as engine:
        count = engine.count()
        words = query or _first_words(engine)
        hits = len(engine.search(words, 10)) if words else 0
    # Words of a document are no part of a shell's language.
    next_command = f"{program} search -- {shlex.quote(words or 'WORDS')}" if count else new_index
    told = _told(settings, out)
    _write(out, settings, context, _Written(**told, documents=count, query=words, hits=hits, next=next_command))


def _reached(context: Context, given: Settings, url: str | None, kind: str | None) -> Settings:
    """With the URL and the kind of engine that answers there."""
    if kind == "embedded" or (url is None and given.engine.kind == "embedded"):
        return _changed(given, kind="embedded", url=url)
    if kind is None and given.engine.kind in CLUSTER_KINDS:
        kind = given.engine.kind
    from connector.engines.cluster.connect import connect
    from connector.engines.cluster.connection import NoCluster

    first: EngineError | MissingExtraError | None = None
    for tried in (kind,) if kind else CLUSTER_KINDS:
        # Through the settings' own checks: user and password leave the URL.
        settings = context.settings(
            engine__kind=tried, engine__url=url, engine__index=given.engine.index, engine__fields=None
        )
        try:
            with closing(connect(settings.engine)) as connection:
                click.echo(f"{connection.url}: {connection.version}", err=True)
            return settings
        except (EngineError, MissingExtraError) as error:
            # The other kind is tried; if that is none either, the first one's words count, unless they are that. No
            # client need be installed for what is no cluster.
            if first is None or "is no " in str(first) or isinstance(error, NoCluster):
                first = error
    assert first is not None
    raise first


def _with_index(settings: Settings, index: str | None, asks: bool) -> tuple[Settings, list[str]]:
    from connector.engines.index_names import index_names

    names = index_names(settings)
    if index is not None or not names:
        if index is not None and names and index not in names:
            raise SettingsError(f"engine.index = {index}: there is no such index; there are: {', '.join(names)}")
        return settings, names
    if len(names) == 1:
        return _changed(settings, index=names[0]), names
    if not asks:
        raise SettingsError(f"there are several indexes; give one with --index: {', '.join(names)}")
    chosen = click.prompt("Index", type=click.Choice(names), default=names[0], err=True)
    return _changed(settings, index=str(chosen)), names


def _with_fields(settings: Settings, fields: str | None, asks: bool) -> Settings:
    there = _text_fields(settings)
    if fields is None:
        if not there:
            raise DataError(f"{settings.engine.index} has no text fields; give --index of one that has")
        answer = ",".join(there)
        if asks:
            answer = click.prompt("Fields to search and score", default=answer, err=True)
        fields = answer
    changed = _changed(settings, fields=tuple(part.strip() for part in fields.split(",") if part.strip()))
    missing = [name for name in changed.engine.field_weights() if not _has(there, name)]
    if missing:
        raise SettingsError(f"no text field: {', '.join(missing)}; the text fields are: {', '.join(there)}")
    return changed


def _has(there: Sequence[str], name: str) -> bool:
    return any(field == name or field.startswith(f"{name}.") for field in there)


def _text_fields(settings: Settings) -> list[str]:
    if settings.engine.kind in CLUSTER_KINDS:
        from urllib.parse import quote

        from connector.engines.cluster.connect import connect
        from connector.engines.cluster.query import text_fields

        with closing(connect(settings.engine)) as connection:
            mappings = connection.request("GET", f"/{quote(settings.engine.index, safe='*,-_.')}/_mapping")
        names = dict.fromkeys(field.name for field in text_fields(mappings))
        # Clusters tell them by the alphabet; the LLM reads them in this order, and lists show the first.
        return sorted(names, key=lambda name: name.rpartition(".")[2].lower() not in _TITLES)
    from connector.engines.index_record import IndexRecord
    from connector.engines.open_engine import index_folder

    return list(IndexRecord.read(index_folder(settings)).slots)


def _first_words(engine: Engine) -> str | None:
    """The first words of the first document: a search that finds something."""
    from connector.engines.text_analysis import texts_of

    with closing(iter(engine.documents())) as documents:  # type: ignore[type-var]
        for document in documents:
            for _, text in texts_of(document.fields):
                # Half a character may stand in a document, and in no command.
                return " ".join(clean_text(text).split()[:_WORDS])
    return None


def _changed(settings: Settings, **engine: Any) -> Settings:
    """With other settings of the engine, checked as those of a file are."""
    values = settings.engine.model_dump(exclude_unset=True) | engine
    try:
        return settings.model_copy(update={"engine": EngineSettings.model_validate(values)})
    except ValueError as error:
        raise SettingsError(" ".join(str(error).split())) from None


def _told(settings: Settings, out: Path) -> dict[str, Any]:
    engine = settings.engine
    variables = tuple(
        f"RH_ENGINE__{name.upper()}" for name in _CREDENTIALS if getattr(engine, name) not in (None, "")
    )
    return {
        "file": str(out),
        "kind": engine.kind,
        "url": engine.url,
        "index": engine.index,
        "fields": engine.fields,
        "variables": variables,
    }


def _write(out: Path, settings: Settings, context: Context, written: _Written) -> None:
    import yaml

    engine = settings.engine.model_dump(mode="json", exclude_defaults=True, exclude=set(_CREDENTIALS))
    engine = {"kind": settings.engine.kind, "index": settings.engine.index, **engine}
    lines = ["# Made by rh-connector init; rh-connector settings shows every setting."]
    lines += [f"# Set {name} in the environment: credentials do not stand here." for name in written.variables]
    text = "\n".join(lines) + "\n" + yaml.safe_dump({"engine": engine}, sort_keys=False, allow_unicode=True)
    try:
        with replacing(out) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        mend = storage_mend(error, "name another file with --out")
        raise DataError(f"cannot write {out}: {error.strerror or error}; {mend}") from None
    if context.as_json:
        context.print_json(asdict(written))
        return
    if written.query:
        found = f"{written.hits} hit{'' if written.hits == 1 else 's'} for: {printable(written.query)}"
        click.echo(f"{written.index}: {written.documents} documents, fields {', '.join(written.fields)}; {found}")
    else:
        click.echo(f"{written.index}: no documents yet")
    click.echo(f"Wrote {out}")
    for name in written.variables:
        click.echo(f"Keep {name} set: it is not in the file.")
    click.echo(f"Next: {printable(written.next)}")
