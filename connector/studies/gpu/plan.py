"""Which steps there are, and how each is measured."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from connector.errors import DataError
from connector.routing.shipped_files import shipped_router
from connector.settings import load_settings
from connector.studies.gpu.card import describe
from connector.studies.gpu.steps import Step, StepFailed, run_process

__all__ = ["COLLECTIONS", "Options", "steps_of"]

COLLECTIONS = (
    "cisi",
    "cosqa",
    "covidqa_passages",
    "cranfield",
    "dl19",
    "med",
    "nfcorpus",
    "scifact",
    "stackfaq_answers",
)
"""Those of docs/results.md."""
_CLI = "from connector.cli import main; main()"
_WINDOWS, _TINY_WINDOWS = (20, 100), (4, 8)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        device: ``cuda`` or ``cpu``.
        models: names or folders.
        data: folder of judged collections; None: quality is not measured.
        assignments: more settings, each ``KEY=VALUE``.
        tiny: as little as shows that all steps run.
    """

    device: str
    models: Sequence[str]
    data: Path | None = None
    assignments: Sequence[str] = ()
    tiny: bool = False

    def made_with(self) -> dict[str, Any]:
        """What tells results apart that must not be mixed."""
        return {"device": self.device, "tiny": self.tiny, "settings": sorted(self.assignments)}

    def cli(self, model: str, *arguments: str) -> list[str]:
        """A command of ``rh-connector`` for a model, without a settings file."""
        own = [f"backbone.model={model}", f"backbone.device={self.device}", *self.assignments]
        given = [part for each in own for part in ("--set", each)]
        return [sys.executable, "-c", _CLI, "--config", os.devnull, *given, *arguments]


def steps_of(options: Options) -> list[Step]:
    """All steps, what matters most first.

    Raises:
        DataError: two models have one name, or the folder of collections lacks some.
    """
    names = {model: _name(model) for model in options.models}
    if len(set(names.values())) < len(options.models):
        raise DataError(f"two of the models are called the same ({', '.join(names.values())}); rename a folder")
    steps = [
        Step("machine", lambda scratch: describe(options.device)),
        Step("tests", partial(_tests, options)),
    ]
    for model, name in names.items():
        steps.append(Step(f"times.{name}", partial(_times, options, model)))
    for model, name in names.items():
        steps += list(_quality(options, model, name))
    for model, name in names.items():
        if _is_shipped(model):
            steps.append(Step(f"onnx.{name}", partial(_onnx, options, model)))
    return steps


def _name(model: str) -> str:
    return Path(model).name


def _is_shipped(model: str) -> bool:
    """Whether there is a router in the layout solo: without, it reads likelihoods, which graphs do not give."""
    settings = load_settings(os.devnull, {"backbone.model": model, "backbone.layout": "solo"}, environment={})
    return shipped_router(settings) is not None


def _tests(options: Options, scratch: Path) -> Mapping[str, Any]:
    report = scratch / "tests.xml"
    where = "tests/backbone/torch_runtime" if options.tiny else "tests"
    if not Path(where).is_dir():
        raise StepFailed(f"there is no {where}; run this in the repository's folder")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", where]
    # Failed tests are a result.
    printed = run_process(command, may_end_with=(0, 1))
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for count in counts:
            counts[count] += int(suite.get(count, 0))
    if options.device == "cuda" and counts["skipped"] == counts["tests"]:
        raise StepFailed(f"all {counts['tests']} tests marked gpu were skipped: torch sees no GPU")
    return {**counts, "told": printed.strip().splitlines()[-20:]}


def _times(options: Options, model: str, scratch: Path) -> Mapping[str, Any]:
    out = scratch / "times.json"
    command = [sys.executable, "-m", "connector.studies.gpu.timing", model, "--device", options.device]
    command += [part for each in options.assignments for part in ("--set", each)]
    run_process([*command, *(["--tiny"] if options.tiny else []), "--out", str(out)])
    return _read(out)


def _quality(options: Options, model: str, name: str) -> Iterator[Step]:
    if options.data is None:
        return
    found = [each for each in COLLECTIONS if (options.data / each / "corpus.jsonl").is_file()]
    if not options.tiny and (missing := sorted(set(COLLECTIONS) - set(found))):
        raise DataError(f"{options.data} has no {', '.join(missing)}; name a folder with all collections (--data)")
    windows = _TINY_WINDOWS if options.tiny else _WINDOWS
    for window in windows:
        for collection in found[:1] if options.tiny else found:
            measure: Callable[[Path], Mapping[str, Any]] = partial(
                _collection, options, model, options.data / collection, window
            )
            yield Step(f"quality.{name}.{collection}.{window}", measure)


def _collection(options: Options, model: str, folder: Path, window: int, scratch: Path) -> Mapping[str, Any]:
    out = scratch / "quality.json"
    few = ["--limit", "2"] if options.tiny else []
    asked = ["--window", str(window), "--timed", "0", *few, "--out", str(out)]
    run_process(options.cli(model, "evaluate", str(folder), *asked))
    report = _read(out)
    kept = ("name", "readout", "nDCG@10", "difference", "p_value", "interval")
    rows = [{key: row[key] for key in kept if row.get(key) is not None} for row in report["rows"]]
    told = {key: report[key] for key in ("collection", "queries", "window", "provenance")}
    return {**told, "rows": rows}


def _onnx(options: Options, model: str, scratch: Path) -> Mapping[str, Any]:
    """The same model as ONNX graphs: ONNX Runtime's CUDA is taken for the LLM where this shows that it is faster."""
    out = scratch / "onnx.json"
    run_process(options.cli(model, "export", "--backbone"))
    sizes = ["--window", "2", "4", "6", "--tokens", "24", "--repeats", "1"] if options.tiny else []
    parts = ["--only", "warm", "--only", "cold"]
    run_process(options.cli(model, "--set", "backbone.runtime=onnx", "bench", *parts, *sizes, "--out", str(out)))
    return _read(out)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
