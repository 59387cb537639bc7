"""A disk that is full after so many bytes: one clear line, nothing lost that was there, and it goes on with room."""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from connector.errors import RhConnectorError
from tests.campaign.rows import Row, Tally
from tests.campaign.writers import Cache, Index, Tables, Writer, files_of_routers, reports, settings_files, sources

__all__ = ["disks"]

_PART = "full disk"
_PAGE = 4096
_ROOMY = 64 * 1024 * 1024


def disks(rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row for each kind of file.

    Args:
        rounds: full disks of each.
        seed: of the bytes that they take.
    """
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as name:
        folder = Path(name)
        given = sources(folder)
        kinds: Mapping[str, Callable[[Path], Writer]] = {
            "the document cache is": Cache,
            "an index is": lambda disk: Index(disk, given.documents, None),
            "an index with vectors is": lambda disk: Index(disk, given.documents, given.embedder),
            "statistics are": Tables,
            "routers and heads are (export, train)": files_of_routers,
            "reports and runs are (evaluate)": reports,
            "settings are (init)": lambda disk: settings_files(disk, given.wide_index),
        }
        for kind, make in kinds.items():
            most = _needed(folder / "disk", make)
            tally, full = Tally(), 0
            for _ in range(rounds):
                # Behind the end of what is needed too: the last write must not be the one that is never tried.
                lost, was_full = _tried(folder / "disk", make, drawn.randrange(_PAGE, most + 2 * _PAGE))
                full += was_full
                tally.add(lost)
            note = f"room for 4 kB to {most / 1000:,.0f} kB; {full} were full before the end"
            yield tally.row(_PART, f"while {kind} written", note)


@contextmanager
def _disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _needed(place: Path, make: Callable[[Path], Writer]) -> int:
    """Bytes that all of it takes."""
    with _disk(place, _ROOMY) as disk:
        make(disk).write(lambda number: None)
        return disk_usage(disk).used


def _tried(place: Path, make: Callable[[Path], Writer], room: int) -> tuple[str | None, bool]:
    """What was lost, and whether the disk was full."""
    told, full = [-1], False
    with _disk(place, room) as disk:
        writer = make(disk)
        try:
            writer.write(told.append)
        except RhConnectorError as error:
            full = True
            if "\n" in str(error) or "make room" not in str(error):
                return f"the message does not say what helps: {error}".replace(str(place), "")[:250], True
        if lost := writer.check(max(told)):
            return f"while the disk is full: {lost}", full
        subprocess.run(["mount", "-o", f"remount,size={_ROOMY}", disk], check=True)
        try:
            writer.write(told.append)
        except RhConnectorError as error:
            return f"with room again: {error}".replace(str(place), "")[:250], full
        lost = writer.check(max(told)) or writer.finished()
    return f"with room again: {lost}" if lost else None, full
