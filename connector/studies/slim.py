"""Size and start of an environment without torch: ``python -m connector.studies.slim``.

A new virtual environment is made with what everybody gets, in a temporary folder. The model should have been
pulled before, into the cache folder of the settings.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import click

from connector.errors import RhConnectorError, SettingsError
from connector.evaluation.provenance import processor_name, today

__all__ = ["first_answer", "megabytes", "packages", "served_answer"]

_UNWANTED = ("torch", "transformers")
_WINDOW = {
    "query": "how long do cats sleep",
    "documents": ["Adult cats sleep twelve to sixteen hours a day.", "Rust guarantees memory safety."],
}
_SECONDS = 60.0


def megabytes(folder: Path) -> float:
    """Size of all files below a folder, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def packages(python: Path) -> dict[str, str]:
    """Package -> version of what is installed beside an interpreter."""
    listed = _run([str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"])
    return {package["name"]: package["version"] for package in json.loads(listed)}


def first_answer(program: Sequence[str]) -> float:
    """Seconds from the start of ``rh-connector rerank`` to its end, with one window.

    Args:
        program: the program and its settings.

    Raises:
        SettingsError: it did not rerank.
    """
    started = time.perf_counter()
    answer = json.loads(_run([*program, "rerank"], given=json.dumps(_WINDOW) + "\n"))
    seconds = time.perf_counter() - started
    if not answer["reranked"]:
        raise SettingsError(f"the window was not reranked: {answer['reason']}")
    return seconds


def served_answer(program: Sequence[str]) -> float:
    """Seconds from the start of ``rh-connector serve`` to its first reranked answer over HTTP.

    Args:
        program: the program and its settings.

    Raises:
        SettingsError: there is none within a minute.
    """
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    command = [*program, "--set", "serve.host=127.0.0.1", "--set", f"serve.port={port}", "serve"]
    with _stopped(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) as service:
        while time.perf_counter() - started < _SECONDS and service.poll() is None:
            try:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/v1/rerank",
                    json.dumps(_WINDOW).encode(),
                    {"content-type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                    answer.read()
                return time.perf_counter() - started
            except (urllib.error.URLError, ConnectionError):
                # Not listening yet, or the model is still being loaded (503).
                time.sleep(0.01)
    raise SettingsError("the service gave no answer within a minute; run rh-connector serve by hand to see why")


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _run(command: Sequence[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SettingsError(f"{' '.join(command[1:4])} failed: {' '.join(done.stderr.split())[-500:]}")
    return done.stdout


@click.command()
@click.option(
    "--from", "source", default=".", show_default=True, help="What to install: a folder, a wheel or a name."
)
@click.option("--runs", default=5, show_default=True, help="Of each kind of start; medians are told.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Settings, as of rh-connector.")
@click.option("--out", type=click.Path(path_type=Path), help="Report as JSON.")
def _main(source: str, runs: int, assignments: tuple[str, ...], out: Path | None) -> None:
    """Print the size of a serving environment without torch, and how long it takes to its first answers."""
    try:
        report = _measure(source, runs, assignments)
    except RhConnectorError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(report, indent=1))
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _measure(source: str, runs: int, assignments: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rh-slim-") as folder:
        click.echo("installing …", err=True)
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", source]
        _run([str(python), *pip])
        installed = packages(python)
        unwanted = [name for name in _UNWANTED if name in installed]
        if unwanted:
            raise SettingsError(f"{', '.join(unwanted)} came along with rh-connector")
        given = [word for assignment in ("backbone.runtime=onnx", *assignments) for word in ("--set", assignment)]
        program = [str(Path(folder, "bin", "rh-connector")), *given]
        # The first start compiles the modules; it is told, and not counted.
        click.echo("starting …", err=True)
        very_first = first_answer(program)
        starts = [first_answer(program) for _ in range(runs)]
        served = [served_answer(program) for _ in range(runs)]
        (libraries,) = Path(folder, "lib").glob("python*/site-packages")
        pip_itself = sum(megabytes(path) for path in libraries.glob("pip*"))
        return {
            "megabytes": round(megabytes(libraries) - pip_itself, 1),
            "packages": {name: version for name, version in installed.items() if name != "pip"},
            "settings": list(assignments),
            "seconds_to_first_answer": round(statistics.median(starts), 3),
            "seconds_to_first_answer_range": [round(min(starts), 3), round(max(starts), 3)],
            "seconds_to_served_answer": round(statistics.median(served), 3),
            "seconds_to_served_answer_range": [round(min(served), 3), round(max(served), 3)],
            "seconds_of_the_very_first": round(very_first, 3),
            "runs": runs,
            "cpu": processor_name(),
            "python": sys.version.split()[0],
            "date": today(),
            "command": "python -m connector.studies.slim --out slim.json",
        }


if __name__ == "__main__":
    _main()
