"""A memory cgroup of one's own, of either version: processes in it that take more are killed by the kernel."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

__all__ = ["MemoryGroup", "NoMemoryGroup", "memory_group", "parent_for"]

# The shell puts itself there and becomes the command: what that takes is counted from its first byte.
_WITHIN = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')
_REMOVAL_S = 10.0
_STEP = 2_000_000


class NoMemoryGroup(click.ClickException):
    """No group can be made here, in one line."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The group.

    Attributes:
        path: its folder.
        unified: whether it is of cgroup v2.
    """

    path: Path
    unified: bool

    @property
    def within(self) -> Sequence[str]:
        """A command that runs its arguments in the group."""
        return (*_WITHIN, str(self.path))

    def limit(self, amount: int) -> None:
        """Bytes that its processes may take together; the kernel drops cached files before it kills.

        Version 1 takes no limit below what is held already, files in use among it: then it is the next that it takes.
        """
        file = self.path / ("memory.max" if self.unified else "memory.limit_in_bytes")
        while True:
            try:
                file.write_text(str(amount))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                amount += _STEP
            else:
                return

    def taken(self) -> int:
        """Bytes that its processes hold besides cached files."""
        return self._of("memory.stat", "anon" if self.unified else "rss")

    def kills(self) -> int:
        """Processes of it that the kernel killed for want of memory."""
        return self._of("memory.events" if self.unified else "memory.oom_control", "oom_kill")

    def _of(self, file: str, name: str) -> int:
        rows = dict(line.split() for line in (self.path / file).read_text().splitlines())
        return int(rows[name])


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group, removed at the end: below that of this process in version 1, beside it in version 2.

    Raises:
        NoMemoryGroup: no memory controller is mounted, or this user may make no group.
    """
    proc = Path("/proc")
    found = parent_for((proc / "self/cgroup").read_text(), (proc / "mounts").read_text())
    if found is None:
        raise NoMemoryGroup("no memory cgroup can be made here: no memory controller is mounted")
    parent, unified = found
    path = parent / f"rh-campaign-{os.getpid()}"
    group = MemoryGroup(path, unified)
    try:
        if unified and "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            (parent / "cgroup.subtree_control").write_text("+memory")
        path.mkdir()
    except OSError as error:
        raise NoMemoryGroup(f"no memory cgroup can be made here: {error}") from None
    try:
        # Where there is swap, the group goes there first, and takes minutes to die.
        swap = path / ("memory.swap.max" if unified else "memory.swappiness")
        with suppress(FileNotFoundError), swap.open("r+") as file:
            file.write("0")
        group.kills()
        yield group
    finally:
        _remove(path)


def parent_for(groups: str, mounts: str) -> tuple[Path, bool] | None:
    """Where a new memory group goes, and whether it is of version 2; None: no memory controller is mounted.

    In version 2 a group that holds processes can have none below it (cgroups(7), "no internal processes"): the new
    one goes beside that of this process.

    Args:
        groups: what ``/proc/self/cgroup`` holds.
        mounts: what ``/proc/mounts`` holds.
    """
    own = dict(line.split(":", 2)[1:] for line in groups.splitlines())
    for _, place, kind, options, *_ in (line.split() for line in mounts.splitlines()):
        if kind == "cgroup" and "memory" in options.split(","):
            (names,) = [name for name in own if "memory" in name.split(",")]
            return Path(place + own[names]), False
        if kind == "cgroup2" and "memory" in (Path(place) / "cgroup.controllers").read_text().split():
            return Path(place + own[""].rpartition("/")[0]), True
    return None


def _remove(path: Path) -> None:
    until = time.monotonic() + _REMOVAL_S
    while True:
        try:
            return path.rmdir()
        except OSError:
            # The kernel counts a dead process for some moments more.
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
