"""Requests made at random from ``/openapi.json``: ``python -m connector.studies.http_fuzz URL``. None may get a 500.

schemathesis makes and sends them; it comes with the extra ``clients``. Other statuses above 500 are answers: what
could not be ranked in time has 503 or 504 (docs/http-api.md, "Errors").
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from connector.errors import RhConnectorError, SettingsError

__all__ = ["Fuzzed", "counted", "fuzz"]


@dataclass(slots=True)
class Fuzzed:
    """What came back.

    Attributes:
        statuses: how many answers, by status; 0: the connection broke.
        faults: those with status 500, and requests whose connection broke, as schemathesis recorded them.
        operations: paths with their methods, as the schema has them, that got requests.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    operations: set[str] = field(default_factory=set)

    @property
    def requests(self) -> int:
        """How many were answered, or broke off."""
        return self.statuses.total()

    def summary(self) -> dict[str, Any]:
        """Counts alone."""
        by_status = {str(status): count for status, count in sorted(self.statuses.items())}
        return {
            "requests": self.requests,
            "operations": len(self.operations),
            "statuses": by_status,
            "broken": self.statuses[0],
            "status_500": len(self.faults) - self.statuses[0],
        }


def fuzz(url: str, seconds: int, *, seed: int = 0, key: str | None = None, program: str | None = None) -> Fuzzed:
    """Send requests for so long.

    Args:
        url: of a running service, without a slash at its end.
        seconds: for all of it.
        seed: of the requests.
        key: of the service; None: it asks for none.
        program: schemathesis; None: the one beside this Python, else on the PATH.

    Raises:
        SettingsError: schemathesis is not there, or could not read the schema.
    """
    beside = Path(sys.executable).with_name("schemathesis")
    # It runs in a folder of its own.
    named = program or (str(beside) if beside.exists() else "schemathesis")
    place = shutil.which(named) or program
    found = None if place is None else str(Path(place).absolute())
    if found is None:
        raise SettingsError(
            "schemathesis is missing; make clients puts it into .venv-clients/bin, name it with --program"
        )
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.ndjson"
        command = [found, "run", f"{url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed), "--no-color"]
        command += [
            "--phases",
            "examples,coverage,fuzzing",
            "--checks",
            "not_a_server_error",
            "--continue-on-failure",
        ]
        command += ["--no-shrink", "--generation-database", "none", "--suppress-health-check", "all"]
        command += ["--report", "ndjson", "--report-ndjson-path", str(report)]
        command += [] if key is None else ["--header", f"Authorization: Bearer {key}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        # 1: some answer was an error of the server, 503 included.
        if done.returncode not in (0, 1) or not report.exists():
            raise SettingsError(
                f"schemathesis ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}"
            )
        with report.open(encoding="utf-8") as lines:
            return counted(lines)


def counted(lines: Iterator[str]) -> Fuzzed:
    """What a report of schemathesis holds; one event of JSON a line."""
    found = Fuzzed()
    for line in lines:
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for sent in recorder.get("interactions", {}).values():
            # A connection that broke off has none.
            answer = sent.get("response")
            status = 0 if answer is None else int(answer["status_code"])
            found.statuses[status] += 1
            found.operations.add(recorder["label"])
            if status in (0, 500):
                found.faults.append(sent)
    return found


@click.command()
@click.argument("url")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--key", help="One of serve.api_keys.")
@click.option("--program", help="schemathesis; default: beside this Python, else on the PATH.")
def main(url: str, minutes: float, seed: int, key: str | None, program: str | None) -> None:
    """Print the counts as one line of JSON, and on standard error each fault. Exit code 1 where there is one."""
    found = fuzz(url.rstrip("/"), max(round(minutes * 60), 1), seed=seed, key=key, program=program)
    for fault in found.faults:
        click.echo(json.dumps(fault), err=True)
    click.echo(json.dumps({"minutes": minutes, "seed": seed, **found.summary()}))
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    try:
        main()
    except RhConnectorError as error:
        raise SystemExit(f"Error: {error}") from None
