"""What a measurement was made with: enough to make it again."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from connector.credentials import redacted

__all__ = ["Provenance", "installed_versions", "memory_in_use", "portable_command", "processor_name", "today"]

_PACKAGES = ("rh-connector", "torch", "transformers", "tokenizers", "numpy", "scipy", "ir-measures", "tantivy")
# Options that say where the LLM runs.
_WHERE = ("--ray", "--ray-workers")
_FOLDER = "DATA"
# Reports of older versions lack these.
_NEWER = (
    *("router", "left_out", "shuffled", "layers", "precision", "embedder"),
    *("second_model", "second_router", "second_hits", "router_embedder"),
)


@dataclass(frozen=True)
class Provenance:
    """How the numbers of one report came about.

    Attributes:
        model: name of the LLM.
        fingerprint: of weights, tokenizer, template and layout.
        layout: the layout in which the heads were read.
        head_set: file name of the static heads, or None.
        first_stage: what made the windows: ``embedded BM25`` or the name of a run.
        qrels: file of the judgments.
        split: split of the collection.
        limit: how many queries were asked for at most; None: all.
        seed: of the tests and of the choice of queries.
        relevant_from: lowest grade that counted as relevant for MRR@10.
        date: day of the measurement, ISO 8601.
        cpu: the processor.
        device: where the LLM ran: ``cpu``, or the name of the accelerator.
        threads: threads the LLM could use.
        versions: package -> version.
        command: the command line, without folders of the machine.
        python: version of Python.
        router: file name and digest of the router, or None.
        left_out: the same of the router that was trained without this collection, or None.
        shuffled: whether the LLM saw the windows in random order.
        layers: heads of the first so many layers were scored; None: of all.
        precision: number formats of the weights and of encoded documents; None in reports of older versions.
        embedder: names and digests of the embedding models that have rows of their own, or None.
        second_model: name of the second LLM of a cascade, or None.
        second_router: file name and digest of its router, or None.
        second_hits: how many of a query's hits it read at most, or None.
        router_embedder: name and digest of the embedding model that the router weighs beside the LLM, or None.
    """

    model: str
    fingerprint: str
    layout: str
    head_set: str | None
    first_stage: str
    qrels: str
    split: str
    limit: int | None
    seed: int
    relevant_from: int
    threads: int
    command: str
    device: str = "cpu"
    date: str = field(default_factory=lambda: today())
    cpu: str = field(default_factory=lambda: processor_name())
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    python: str = field(default_factory=platform.python_version)
    router: str | None = None
    left_out: str | None = None
    shuffled: bool = False
    layers: int | None = None
    precision: str | None = None
    embedder: str | None = None
    second_model: str | None = None
    second_router: str | None = None
    second_hits: int | None = None
    router_embedder: str | None = None

    @property
    def first_reader(self) -> str:
        """The LLM in words, with the embedding model that the router weighs."""
        if self.router_embedder is None:
            return self.model
        return f"{self.model} with {self.router_embedder.rpartition(' ')[0]}"

    @property
    def readers(self) -> str:
        """``first_reader``; of a cascade both LLMs."""
        if self.second_model is None:
            return self.first_reader
        return f"{self.first_reader} and, of its first {self.second_hits}, {self.second_model}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, by attribute name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Provenance:
        """The inverse of ``to_json``.

        Raises:
            TypeError: a key is missing or unknown.
        """
        # What a default would fill in describes this machine, not the one that measured.
        missing = [each.name for each in fields(cls) if each.name not in value and each.name not in _NEWER]
        if missing:
            raise TypeError(f"provenance has no {missing[0]}")
        return cls(**value)


def today() -> str:
    """The day, ISO 8601, UTC."""
    return datetime.now(UTC).date().isoformat()


def processor_name() -> str:
    """Name of the processor and how many of its threads there are."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # Not Linux: what the platform says must do.
    return f"{name}, {os.cpu_count()} threads"


def installed_versions() -> dict[str, str]:
    """Package -> version, of the packages that can change a number."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def portable_command(arguments: Sequence[str], collection: Path | str | None = None) -> str:
    """The command line as it may be published, without secrets: ``DATA`` stands for the folder of the collections.

    Where the LLM ran changes nothing of what is made, and is left out.

    Args:
        arguments: of ``rh-connector``, without its name.
        collection: folder of the collection; whatever lies beside it is shown below ``DATA``. Of other absolute
            paths only the last part stays. None: there is no such folder.
    """
    beside = None if collection is None else Path(collection).resolve().parent

    def shown(argument: str) -> str:
        option, equals, value = argument.partition("=")
        if equals and os.path.isabs(value):
            return f"{option}={shown(value)}"
        # Resolved only for looking: a symbolic link or ``..`` must not bring the machine's folders in.
        if argument == os.devnull or (not os.path.isabs(argument) and not argument.startswith("..")):
            return argument
        path = Path(argument).resolve()
        if beside is None or not path.is_relative_to(beside):
            return path.name
        return f"{_FOLDER}/{path.relative_to(beside)}"

    own: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in _WHERE:
            next(given, None)
        elif argument.partition("=")[0] not in _WHERE:
            own.append(shlex.quote(shown(redacted(argument))))
    return " ".join(["rh-connector", *own])


def memory_in_use() -> dict[str, int]:
    """Bytes of memory of this process: now, and at most so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return {"now": 0, "most": 0}  # Windows.
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        now = pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        now = most
    return {"now": now, "most": most}
