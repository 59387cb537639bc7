"""Steps that each leave one file: what was killed goes on where it was, and one that fails stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.errors import DataError, RhConnectorError
from connector.evaluation.provenance import today

__all__ = ["Step", "StepFailed", "read_records", "run_process", "run_steps"]

_FAILED = ".failed.txt"
_TOLD = 4000


class StepFailed(RhConnectorError):
    """A process of a step ended with an error; the message is what it said last."""


@dataclass(frozen=True)
class Step:
    """One thing that is measured.

    Attributes:
        name: of its file.
        measure: gives what goes into the file, JSON-ready; is given an empty folder for files of its own.
    """

    name: str
    measure: Callable[[Path], Mapping[str, Any]]


def run_steps(steps: Sequence[Step], folder: Path, made_with: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Run the steps that have no file yet.

    Args:
        steps: in this order.
        folder: of the files ``NAME.json``; of a step that failed there is ``NAME.failed.txt``, until it does not.
        made_with: what the files' numbers depend on; goes into each.
        say: told of each step.

    Returns:
        How many failed.

    Raises:
        DataError: a file is damaged, or was made with something else.
    """
    known = read_records(folder)
    for name, record in known.items():
        if record["made_with"] != made_with:
            raise DataError(
                f"{folder}/{name}.json was made with {record['made_with']}, this run is with {dict(made_with)}; "
                "name another folder (--out), or remove the file"
            )
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for step in steps:
        if step.name in known:
            say(f"{step.name}: done before")
            continue
        say(f"{step.name} …")
        started = time.monotonic()
        failed = folder / f"{step.name}{_FAILED}"
        try:
            with tempfile.TemporaryDirectory(prefix="rh-gpu-") as scratch:
                found = step.measure(Path(scratch))
        except Exception as error:  # whatever it is, the steps that follow are worth having
            failures += 1
            failed.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
            say(f"{step.name} FAILED: {str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)}")
            continue
        record = {
            "step": step.name,
            "date": today(),
            "seconds": round(time.monotonic() - started, 1),
            "made_with": dict(made_with),
            "found": found,
        }
        _write(folder / f"{step.name}.json", record)
        failed.unlink(missing_ok=True)
        say(f"{step.name}: {record['seconds']} s")
    return failures


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a folder by the steps' names.

    Raises:
        DataError: a file holds something else.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not {"step", "made_with", "found"} <= record.keys():
                raise ValueError("it is no record of a step")
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: {error}; remove it, and its step is run again") from None
        records[path.stem] = record
    return records


def run_process(command: Sequence[str], *, may_end_with: Sequence[int] = (0,)) -> str:
    """Run a command to its end and return its standard output.

    Each step's own process gives the card's memory back, whatever happens in it.

    Raises:
        StepFailed: it ended otherwise.
    """
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if found.returncode not in may_end_with:
        told = (found.stderr.strip() or found.stdout.strip())[-_TOLD:]
        raise StepFailed(f"it ended with {found.returncode}\n{told}")
    return found.stdout


def _environment() -> dict[str, str]:
    """Without the settings of whoever runs it: they would be measured, and not told."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RH_")}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
