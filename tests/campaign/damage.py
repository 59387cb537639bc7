"""Bits that flip and files that are cut: each is refused or made anew, and named; nothing is ranked by it."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from connector.backbone.caching.sqlite_store import DamagedPassageError, PassageStore
from connector.backbone.onnx_runtime.folder import ExportedBackbone
from connector.backbone.onnx_runtime.preparing import prepare_export
from connector.checkpoints.manifest import MANIFEST
from connector.checkpoints.pulling import obtain
from connector.engines.embedded import EmbeddedEngine
from connector.errors import RhConnectorError
from connector.routing.bundle import Bundle, shipped_bundle
from connector.settings import load_settings
from connector.statistics.table_files import load_table, save_table
from tests.campaign.kills import fill_index, passage, table
from tests.campaign.rows import Row, Tally
from tests.checkpoints.tiny_gguf import write_llama

__all__ = ["damage"]

_PART = "damage"
_PASSAGES = 40
_DOCUMENTS = 200


def damage(rounds: int, seed: int = 0) -> Iterator[Row]:
    """Two rows for each kind of file: a flipped bit, and a cut.

    Args:
        rounds: of each.
        seed: of the places.
    """
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        for name, make, check in (
            ("a router bundle", _bundle, _check_bundle),
            ("the document cache", _cache, _check_cache),
            ("a table of statistics", _table, _check_table),
            ("a file of an index", _index, _check_index),
            ("a model's weights and texts", _checkpoint, _check_checkpoint),
            ("a model's ONNX graphs", _graphs, _check_graphs),
        ):
            whole = Path(folder) / name.replace(" ", "-")
            whole.mkdir()
            make(whole)
            for what, harm in (("a bit flipped", _flip), ("cut", _cut)):
                tally = Tally()
                for number in range(rounds):
                    copy = whole.with_name(f"{whole.name}-{number}")
                    shutil.copytree(whole, copy)
                    if check is _check_checkpoint:
                        # Hashes are remembered then, as where it has been used before.
                        obtain(str(_gguf(copy)), cache=copy)
                    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
                    harm(drawn.choice(files), drawn)
                    tally.add(check(copy))
                    shutil.rmtree(copy)
                yield tally.row(_PART, f"{name}, {what}")


def _flip(path: Path, drawn: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    path.write_bytes(data)


def _cut(path: Path, drawn: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(drawn.randrange(path.stat().st_size))


def _bundle(folder: Path) -> None:
    shipped = shipped_bundle("smollm2-135m", "solo")
    assert shipped is not None
    shutil.copy(shipped, folder / "router.onnx")


def _check_bundle(folder: Path) -> str | None:
    try:
        Bundle.load(folder / "router.onnx")
    except RhConnectorError as error:
        return None if "router.onnx" in str(error) else f"the message names no file: {error}"
    return "a damaged bundle was loaded"


def _cache(folder: Path) -> None:
    with closing(PassageStore(folder / "passages.sqlite", 100_000_000)) as store:
        for number in range(_PASSAGES):
            store.put(*passage(number), 1)


def _check_cache(folder: Path) -> str | None:
    path = folder / "passages.sqlite"
    try:
        with closing(PassageStore(path, 100_000_000)) as store:
            for number in range(_PASSAGES):
                key, data = passage(number)
                try:
                    found = store.get(key)
                except DamagedPassageError:
                    continue
                if found not in (None, data):
                    return "states that are not those that were written"
    except RhConnectorError as error:
        return None if path.name in str(error) else f"the message names no file: {error}"
    return None


def _table(folder: Path) -> None:
    save_table(folder / "table.npz", {"number": 7}, table(7))


def _check_table(folder: Path) -> str | None:
    kept = load_table(folder / "table.npz", lambda record, arrays: (record, {key: arrays[key] for key in table(7)}))
    if kept is None:
        return None
    whole = kept[0] == {"number": 7} and all(np.array_equal(kept[1][key], value) for key, value in table(7).items())
    return None if whole else "a table with other numbers was read"


def _index(folder: Path) -> None:
    fill_index(folder, 0, _DOCUMENTS)


def _check_index(folder: Path) -> str | None:
    try:
        engine = EmbeddedEngine(folder)
        count = engine.count()
        for number in range(0, _DOCUMENTS, 20):
            found = engine.search(f"number {number}", 3)
            if not found or found[0].id != str(number) or found[0].fields != {"text": f"cat number {number}"}:
                return "another document, or another text, was found"
    except RhConnectorError as error:
        return None if str(folder) in str(error) else f"the message names no folder: {error}"
    return None if count == _DOCUMENTS else f"{_DOCUMENTS - count} documents are missing, and nothing says so"


def _checkpoint(folder: Path) -> None:
    obtain(str(_gguf(folder)), cache=folder)


def _check_checkpoint(folder: Path) -> str | None:
    whole = {path.name: path.read_bytes() for path in _model_files(folder.with_name(folder.name.rpartition("-")[0]))}
    harmed = [path.name for path in _model_files(folder) if path.read_bytes() != whole[path.name]]
    told = _Told()
    logging.getLogger("connector").addHandler(told)
    try:
        obtain(str(_gguf(folder)), cache=folder)
    except RhConnectorError as error:
        return None if str(folder) in str(error) else f"the message names no folder: {error}"
    finally:
        logging.getLogger("connector").removeHandler(told)
    if any(path.read_bytes() != whole[path.name] for path in _model_files(folder)):
        return "damaged files were taken for a model"
    return f"{harmed[0]} was made anew, and nothing says so" if harmed and str(folder) not in told.text else None


def _model_files(folder: Path) -> list[Path]:
    """But for the manifest, which says what they must be."""
    return [path for path in folder.glob("models/gguf-*/*") if path.name != MANIFEST]


class _Told(logging.Handler):
    """Warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


def _graphs(folder: Path) -> None:
    shutil.copytree(_prepared(folder), folder, dirs_exist_ok=True)


def _check_graphs(folder: Path) -> str | None:
    """As a folder that is named it is refused, as what was prepared here it is written anew."""
    try:
        ExportedBackbone.read(folder)
        return "damaged graphs were taken"
    except RhConnectorError as error:
        if str(folder) not in str(error):
            return f"the message names no file: {error}"
    whole = {path.name: path.read_bytes() for path in _prepared(folder).iterdir()}
    prepared = _prepared(folder)
    shutil.rmtree(prepared)
    shutil.copytree(folder, prepared)
    written = {path.name: path.read_bytes() for path in _prepared(folder).iterdir()}
    return None if written == whole else "what was written anew differs"


def _prepared(folder: Path) -> Path:
    """The graphs as they are prepared at the first use."""
    cache = folder.with_name("prepared")
    given = {"backbone.model": str(_gguf(folder)), "backbone.dtype": "float32", "cache.path": str(cache)}
    return prepare_export(load_settings(os.devnull, given, environment={}), None)


def _gguf(folder: Path) -> Path:
    """A tiny model. It lies beside what is harmed: another GGUF file is another model."""
    path = folder.with_name("tiny.gguf")
    if not path.is_file():
        write_llama(path)
    return path
