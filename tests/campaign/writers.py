"""What writes files in the campaign: each can be stopped anywhere, goes on, and knows what must be there."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from connector.backbone.caching.sqlite_store import DamagedPassageError, PassageStore
from connector.cli import cli
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.engines.engine import Engine
from connector.engines.indexing import index_source
from connector.engines.open_engine import open_engine
from connector.engines.progress import ProgressFile
from connector.engines.sources import Source
from connector.evaluation.answering.evaluation import Evaluation
from connector.evaluation.text_lines import write_text
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.settings import load_settings
from connector.statistics.table_files import load_table, save_table
from router_export import export
from tests.campaign.kills import passage, table
from tests.embedding.tiny_model import save_embedder
from tests.evaluation.answering.test_evaluation import found
from tests.router_export.router.test_exporting import make_router
from tests.training.worlds import metadata

__all__ = [
    "Cache",
    "Index",
    "Sources",
    "Tables",
    "Writer",
    "files_of_routers",
    "reports",
    "settings_files",
    "sources",
]

_CACHE_BYTES = 400_000_000
_PASSAGES, _TABLES, _VERSIONS = 12, 12, 3
_DOCUMENTS, _BATCH = 600, 50
Told = Callable[[int], None]
Write = tuple[str, Callable[[Path], object]]


class Writer(Protocol):
    """Writes numbered things; the same one goes on where it was stopped, as a service does."""

    def write(self, told: Told) -> None:
        """Write all that is not written yet; each number is told when it is."""
        ...

    def check(self, told: int) -> str | None:
        """What another process finds wrong; told: the highest number, -1 for none."""
        ...

    def finished(self) -> str | None:
        """What is missing although all was written."""
        ...


@dataclass(frozen=True)
class Sources:
    """What is made once, on another disk: documents as JSON lines, an index of many fields, an embedding model."""

    documents: Path
    wide_index: Path
    embedder: Path


def sources(folder: Path) -> Sources:
    """Make them in a folder."""
    made = Sources(folder / "documents.jsonl", folder / "wide", folder / "models" / "tiny")
    lines = [
        json.dumps(
            {"_id": str(at), "text": f"cat number {at} " + " ".join(f"w{at * 7 % 997}x{n}" for n in range(30))}
        )
        for at in range(_DOCUMENTS)
    ]
    made.documents.write_text("\n".join(lines) + "\n")
    fields = {f"field_{at}_{'of_many_' * 12}": "cats sleep" for at in range(200)}
    with closing(EmbeddedEngine(made.wide_index)) as engine:
        engine.index([Document("1", fields)])
    save_embedder(made.embedder)
    return made


class Cache:
    """Passages of a document cache."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "documents" / "passages.sqlite"
        self._store: PassageStore | None = None
        self._next = 0

    def write(self, told: Told) -> None:
        self._store = self._store or PassageStore(self._path, _CACHE_BYTES)
        while self._next < _PASSAGES:
            self._store.put(*passage(self._next), 1)
            told(self._next)
            self._next += 1
        self._store.close()

    def check(self, told: int) -> str | None:
        if told < 0:
            return None
        with closing(PassageStore(self._path, _CACHE_BYTES)) as store:
            for number in range(told + 1):
                key, data = passage(number)
                try:
                    if store.get(key) != data:
                        return "a passage that was acknowledged is gone or changed"
                except DamagedPassageError:
                    return "a passage that was acknowledged is damaged"
        return None

    def finished(self) -> str | None:
        return None if self._next == _PASSAGES else "not all passages were written"


class Index:
    """Documents of a file, into an index, by words and perhaps by vectors."""

    def __init__(self, disk: Path, documents: Path, embedder: Path | None) -> None:
        self._folder, self._documents = disk, documents
        options = {"engine.url": str(disk / "index"), "engine.embedder": embedder and str(embedder)}
        self._settings = load_settings("/dev/null", options, {})
        self._engine = self._opened()

    def write(self, told: Told) -> None:
        source = Source(str(self._documents))
        progress = ProgressFile(self._folder / "index", source.identity())
        index_source(
            self._engine, source, progress, batch=_BATCH, committed=lambda reached: told(reached.indexed - 1)
        )

    def check(self, told: int) -> str | None:
        if told < 0:
            return None
        with closing(self._opened()) as engine:
            there = engine.count()
            if there <= told:
                return f"{told + 1} documents were acknowledged, and {there} are there"
            for number in {0, told // 2, told}:
                (hit,) = engine.search(f"number {number}", 1) or (None,)
                if hit is None or hit.id != str(number):
                    return "a document that was acknowledged is not found"
        return None

    def finished(self) -> str | None:
        with closing(self._opened()) as engine:
            ids = [document.id for document in engine.documents()]
        whole = sorted(ids, key=int) == [str(at) for at in range(_DOCUMENTS)]
        return None if whole else f"{len(ids)} documents, {len(set(ids))} of them different, of {_DOCUMENTS}"

    def _opened(self) -> Engine:
        return open_engine(self._settings)


class Tables:
    """Tables of statistics."""

    def __init__(self, disk: Path) -> None:
        self._disk, self._next = disk, 0

    def write(self, told: Told) -> None:
        while self._next < _TABLES * 2:
            # Each is written over once.
            save_table(self._disk / f"{self._next % _TABLES}.npz", {"number": self._next}, table(self._next))
            told(self._next)
            self._next += 1

    def check(self, told: int) -> str | None:
        newest = {number % _TABLES: number for number in range(told + 1)}
        for place, number in newest.items():
            kept = load_table(self._disk / f"{place}.npz", lambda told, arrays: (told["number"], arrays["states"][:]))
            if kept is None or kept[0] < number or not (kept[1] == kept[0]).all():
                return "a table that was acknowledged is gone, older or damaged"
        return None

    def finished(self) -> str | None:
        return None if self._next == _TABLES * 2 else "not all tables were written"


@dataclass
class Files:
    """Files that are written over and over, in versions; each must always be one of them, whole.

    Attributes:
        disk: where they go.
        writes: name of a file or folder, and what writes it; version after version.
        versions: for each file the bytes of each version, in order.
    """

    disk: Path
    writes: Sequence[Write]
    versions: Mapping[str, Sequence[bytes]]
    done: int = field(default=0)

    def write(self, told: Told) -> None:
        while self.done < len(self.writes):
            name, write = self.writes[self.done]
            write(self.disk / name)
            told(self.done)
            self.done += 1

    def check(self, told: int) -> str | None:
        each = len(self.writes) // _VERSIONS
        least = (told + 1) // each - 1
        for name, versions in self.versions.items():
            path = self.disk / name
            if not path.exists():
                if least >= 0:
                    return f"{name} was acknowledged and is gone"
            elif path.read_bytes() not in versions[max(least, 0) :]:
                return f"{name} is half written, or older than what was acknowledged"
        return None

    def finished(self) -> str | None:
        left = [name for _, _, names in os.walk(self.disk) for name in names if ".part" in name]
        return f"left over: {left[0]}" if left else self.check(len(self.writes) - 1)


def _files(disk: Path, writes: tuple[Write, ...]) -> Files:
    return Files(disk, writes, _versions(writes))


@cache
def _versions(writes: tuple[Write, ...]) -> Mapping[str, Sequence[bytes]]:
    """What each file holds after each version, on a disk that has room."""
    held: dict[str, list[bytes]] = {}
    with TemporaryDirectory(prefix="rh-campaign-") as folder:
        for at, (name, write) in enumerate(writes, 1):
            write(Path(folder) / name)
            if at % (len(writes) // _VERSIONS) == 0:
                for place, _, names in os.walk(folder):
                    for own in names:
                        path = Path(place) / own
                        held.setdefault(str(path.relative_to(folder)), []).append(path.read_bytes())
    return held


def files_of_routers(disk: Path) -> Files:
    """A bundle, the router that it is made of, and heads."""
    return _files(disk, _router_writes())


@cache
def _router_writes() -> tuple[Write, ...]:
    told = metadata()
    writes: list[Write] = []
    for version in range(_VERSIONS):
        router, heads = make_router(version), HeadSet(((1, version),) * 400, 0.5)
        writes += [
            ("router.safetensors", partial(router.save, metadata=told)),
            ("router.onnx", partial(export, router, told)),
            ("heads.json", StaticHeads("a model", "f" * 64, "late", {"query": heads}, {"query": 4.0}, {}).save),
        ]
    return tuple(writes)


def reports(disk: Path) -> Files:
    """All that ``evaluate`` writes."""
    return _files(disk, _report_writes())


@cache
def _report_writes() -> tuple[Write, ...]:
    writes: list[Write] = []
    for version in range(_VERSIONS):
        measured = found(won=12 + version)
        writes += [
            ("report.json", measured.write_report),
            ("queries.tsv", measured.write_per_query),
            ("runs", measured.write_runs),
            ("report.html", partial(_write, _page(measured))),
        ]
    return tuple(writes)


def _page(measured: Evaluation) -> str:
    """Drawn once: a page tells how much memory the process took."""
    with TemporaryDirectory(prefix="rh-campaign-") as folder:
        measured.write_page(Path(folder) / "page")
        return (Path(folder) / "page").read_text(encoding="utf-8")


def _write(text: str, path: Path) -> None:
    write_text(path, [text])


def settings_files(disk: Path, index: Path) -> Files:
    """What ``init`` writes of an index of many fields."""
    return _files(disk, _settings_writes(index))


@cache
def _settings_writes(index: Path) -> tuple[Write, ...]:
    def init(fields: int, path: Path) -> None:
        names = ",".join(f"field_{at}_{'of_many_' * 12}" for at in range(fields))
        given = ["--set", f"engine.url={index.parent}", "init", "--kind", "embedded", "--index", index.name]
        options = ["--fields", names, "--query", "cats", "--out", str(path), "--force"]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            cli.main([*given, *options], standalone_mode=False)

    return tuple(("config.yaml", partial(init, fields)) for fields in (190, 195, 200))
