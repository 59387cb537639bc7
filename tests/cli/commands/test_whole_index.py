"""``rerank --whole-index`` as a process, over indexes of real nodes: killed, given again, the same run at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.evaluation.runs import read_run
from connector.sections import Settings
from connector.settings import load_settings
from tests.evaluation.folders import write_jsonl

pytestmark = pytest.mark.slow

_RUN = "from connector.cli import main; main()"
_QUERIES = {"q1": "how long do cats sleep", "q2": "bread from flour", "q3": "memory safety"}
_COPIES = 16
_LONG_S = 400.0


class Command:
    """The command with everything but its engine and its ``--out``."""

    def __init__(self, folder: Path, cache: Path, documents: list[Document]) -> None:
        self.documents = documents
        self._queries = folder / "queries.jsonl"
        write_jsonl(self._queries, [{"_id": name, "text": text} for name, text in _QUERIES.items()])
        self._given = {"cache.path": str(cache), "backbone.runtime": "onnx", "rerank.window": "50"}

    def begun(self, engine: dict[str, str], out: Path) -> subprocess.Popen[str]:
        settings = [part for key, value in {**self._given, **engine}.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, "-c", _RUN, "--config", os.devnull, "--json", *settings]
        command += ["rerank", "--whole-index", "--queries", str(self._queries), "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def finished(self, engine: dict[str, str], out: Path) -> int:
        """Documents that it says it ranked."""
        with self.begun(engine, out) as process:
            told, _ = process.communicate(timeout=_LONG_S)
        assert process.returncode == 0, told
        return int(json.loads(told)["documents"])

    def killed(self, engine: dict[str, str], out: Path, rows: int) -> bytes:
        """SIGKILL when so many documents are in the file beside ``out``; its whole lines then."""
        part = out.with_name(f"{out.name}.part")
        with self.begun(engine, out) as process:
            end = time.monotonic() + _LONG_S
            while not part.exists() or part.read_bytes().count(b"\n") <= rows:
                assert process.poll() is None and time.monotonic() < end, "it was to be killed in the middle"
                time.sleep(0.01)
            process.kill()
        assert not out.exists()
        return part.read_bytes().rpartition(b"\n")[0] + b"\n"


@pytest.fixture(scope="module")
def command(smollm2: Checkpoint, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "models").symlink_to(settings.cache.path / "models")
    texts = ["Cats sleep for hours.", "Bread is made from flour.", "Rust guarantees memory safety.", " "]
    documents = [
        Document(f"d{at}-{copy}", {"text": f"{text} Part {copy}." if text.strip() else text})
        for copy in range(_COPIES)
        for at, text in enumerate(texts)
    ]
    return Command(folder, folder, documents)


@pytest.fixture(scope="module")
def wanted(command: Command, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The run over an index in this process's own files, in one go."""
    folder = tmp_path_factory.mktemp("embedded")
    given = {"engine.url": str(folder / "indexes"), "engine.index": "whole"}
    with closing(open_engine(load_settings("/dev/null", given, {}))) as engine:
        engine.index(command.documents)
    assert command.finished(given, folder / "out.trec") == 3 * _COPIES
    return (folder / "out.trec").read_bytes()


@pytest.fixture(params=["opensearch_node", "elasticsearch_node"])
def index(request: pytest.FixtureRequest, command: Command) -> Iterator[dict[str, str]]:
    """Settings of the engine, with the documents in an index of two shards."""
    url = request.getfixturevalue(request.param).url
    given = {"engine.kind": request.param.removesuffix("_node"), "engine.url": url}
    given["engine.index"] = f"whole-{uuid.uuid4().hex[:8]}"
    shards = {"settings": {"number_of_shards": 2, "number_of_replicas": 0}}
    httpx2.put(f"{url}/{given['engine.index']}", json=shards, timeout=60).raise_for_status()
    with closing(open_engine(load_settings("/dev/null", given, {}))) as engine:
        engine.index(command.documents)
    yield given
    httpx2.delete(f"{url}/{given['engine.index']}", timeout=60)


def test_a_run_that_is_killed_twice_is_the_one_that_was_not(
    command: Command, index: dict[str, str], wanted: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.trec"
    first = command.killed(index, out, 8)
    second = command.killed(index, out, 24)
    # What was read is kept, and nothing is read again.
    assert second.startswith(first)
    names = [json.loads(line)[0] for line in second.splitlines()[1:]]
    assert len(names) == len(set(names)) >= 24
    assert command.finished(index, out) == 3 * _COPIES
    assert out.read_bytes() == wanted and not list(tmp_path.glob("*.part"))
    best = read_run(out)
    assert {len(entries) for entries in best.values()} == {3 * _COPIES}
    assert [best[name][0].id.partition("-")[0] for name in _QUERIES] == ["d0", "d1", "d2"]


def test_documents_that_changed_between_two_tries(command: Command, index: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.trec"
    rows = [json.loads(line)[0] for line in command.killed(index, out, 8).splitlines()[1:]]
    gone, changed, new = rows[0], rows[1], "d0-new"
    url = f"{index['engine.url']}/{index['engine.index']}"
    httpx2.delete(f"{url}/_doc/{gone}?refresh=true", timeout=60).raise_for_status()
    with closing(open_engine(load_settings("/dev/null", index, {}))) as engine:
        engine.index([Document(name, {"text": "Cats sleep how long: for hours."}) for name in (changed, new)])
    assert command.finished(index, out) == 3 * _COPIES
    best = [entry.id for entry in read_run(out)["q1"]]
    assert gone not in best and len(best) == 3 * _COPIES
    # The same text has the same score: the old one is forgotten.
    assert set(best[:2]) == {changed, new}
