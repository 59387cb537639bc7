"""One finding a check, and how checks run so that a failing one never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from connector.engines.cluster.connection import ClusterError
from connector.errors import EngineError, RhConnectorError

__all__ = ["Check", "Finding", "Level", "failed", "run"]

Level = Literal["ok", "warn", "fail"]
_CLUSTER = EngineError.exit_code


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw.

    Attributes:
        check: its name.
        level: ``fail``: something that the settings ask for does not work; ``warn``: it works, but not as well.
        seen: what was seen.
        mend: what to do about it; empty where nothing is to be done.
        code: exit code of a failure.
    """

    check: str
    level: Level
    seen: str
    mend: str = ""
    code: int = _CLUSTER


Check = Callable[[], Iterable[Finding]]


def failed(check: str, error: Exception) -> Finding:
    """The finding that an exception is; our own messages end with their mend."""
    if not isinstance(error, RhConnectorError):
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(check, "fail", f"the check itself failed: {said}", "rh-connector --debug doctor shows more", 1)
    if isinstance(error, ClusterError) and error.status == 403:
        # Whoever may search need not be allowed to look at everything.
        mend = "give the user the privileges monitor (cluster) and view_index_metadata, to have this checked"
        return Finding(check, "warn", str(error), mend)
    seen, _, mend = str(error).rpartition("; ")
    return Finding(check, "fail", seen or mend, mend if seen else "", error.exit_code)


def run(name: str, check: Check) -> Iterator[Finding]:
    """The findings of one check, the last of them its exception, if there was one."""
    try:
        yield from check()
    except Exception as error:
        yield failed(name, error)
