"""Memory that server and command line take: ``python -m connector.studies.processes.memory CORPUS``.

Both rerank the documents of a corpus, window by window, each in a process of its own, with several sizes of
``cache.memory_mb``. What counts is the largest resident set that the kernel saw (VmHWM), mapped files included.
What is above the cache's limit is the base that the documentation states.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from connector.evaluation.provenance import processor_name, today

__all__ = [
    "MemoryRow",
    "main",
    "measure_command",
    "measure_server",
    "numbered_texts",
    "resident",
    "started",
    "until_ready",
]

_WINDOW = 100
_QUERY = "what causes it and how is it treated"
_RUN = "from connector.cli import main; main()"


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One process.

    Attributes:
        process: ``serve`` or ``rerank``.
        memory_mb: ``cache.memory_mb``.
        documents: that were reranked.
        begun: MB resident when the model was loaded, of ``rerank`` after the first window; None: not seen.
        peak: most MB that were resident.
        cached: MB in the document cache at the end; None: not seen.
    """

    process: str
    memory_mb: int
    documents: int
    begun: float | None
    peak: float
    cached: float | None

    @property
    def base(self) -> float:
        """MB above the cache's limit at the peak."""
        return self.peak - self.memory_mb


def resident(pid: int, field: str = "VmHWM") -> float:
    """MB of a field of ``/proc/PID/status``: VmHWM is the peak, VmRSS what is resident now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def measure_server(texts: Sequence[str], options: Sequence[str], memory_mb: int) -> MemoryRow:
    """``serve``, asked over HTTP."""
    with started(["--json", *options, "--set", f"cache.memory_mb={memory_mb}", "serve", "--port", "0"]) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        until_ready(url, process)
        begun = resident(process.pid, "VmRSS")
        for window in _windows(texts):
            body = json.dumps({"query": _QUERY, "documents": window}).encode()
            asked = urllib.request.Request(f"{url}/v1/rerank", body, {"content-type": "application/json"})
            with urllib.request.urlopen(asked) as answer:
                answer.read()
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            metrics = answer.read().decode()
        return MemoryRow("serve", memory_mb, len(texts), begun, resident(process.pid), _cached(metrics))


def measure_command(texts: Sequence[str], options: Sequence[str], memory_mb: int) -> MemoryRow:
    """``rerank``, given JSON lines."""
    with started([*options, "--set", f"cache.memory_mb={memory_mb}", "rerank"]) as process:
        assert process.stdin is not None and process.stdout is not None
        begun = None
        for window in _windows(texts):
            process.stdin.write(json.dumps({"query": _QUERY, "documents": window}) + "\n")
            process.stdin.flush()
            process.stdout.readline()
            begun = begun or resident(process.pid, "VmRSS")
        return MemoryRow("rerank", memory_mb, len(texts), begun, resident(process.pid), None)


def _windows(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _WINDOW):
        yield texts[start : start + _WINDOW]


def until_ready(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a service answers.

    Raises:
        ClickException: it ended instead.
    """
    while not _is_ready(url):
        if process.poll() is not None:
            raise click.ClickException("serve ended while it was loading; run it alone to see why")
        time.sleep(0.2)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _cached(metrics: str) -> float | None:
    found = [line for line in metrics.splitlines() if line.startswith("rh_cache_bytes ")]
    return float(found[0].split()[1]) / 1e6 if found else None


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """``rh-connector`` with these arguments, without a file of settings; it ends with the context."""
    command = [sys.executable, "-c", _RUN, "--config", "/dev/null", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def numbered_texts(corpus: Path, number: int, length: int) -> list[str]:
    """The first texts, cut, each with its number before it: none is the same as another, as the cache sees them."""
    lines = corpus.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return [f"{place}. {texts[place % len(texts)][:length]}" for place in range(number)]


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--documents", default=10_000, show_default=True, help="How many are reranked.")
@click.option("--characters", default=1000, show_default=True, help="At which a text is cut.")
@click.option("--memory-mb", "sizes", multiple=True, type=int, default=(0, 256, 1024), show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings.")
@click.option("--process", "processes", multiple=True, type=click.Choice(["serve", "rerank"]))
def main(
    corpus: Path,
    documents: int,
    characters: int,
    sizes: tuple[int, ...],
    assignments: tuple[str, ...],
    processes: tuple[str, ...],
) -> None:
    """Print a table of what each process took at most.

    CORPUS: a file of JSON lines with a text each, as of a BEIR folder.
    """
    texts = numbered_texts(corpus, documents, characters)
    options = [part for assignment in assignments for part in ("--set", assignment)]
    print(f"{processor_name()}, {today()}; {documents} documents of {corpus.parent.name}, windows of {_WINDOW}\n")
    print("| process | cache.memory_mb | after loading | in the cache | at most | above the cache |")
    print("|---|---:|---:|---:|---:|---:|")
    measures = {"serve": measure_server, "rerank": measure_command}
    for name in processes or measures:
        for size in sizes:
            row = measures[name](texts, options, size)
            found = (row.begun, row.cached, row.peak, row.base)
            shown = ["" if value is None else f"{value:.0f} MB" for value in found]
            print(f"| {name} | {size} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
