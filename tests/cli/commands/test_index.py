"""``rh-connector index``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.embedding.embedder import Embedder
from connector.engines import embedded
from connector.engines.engine import IndexReport
from connector.engines.open_engine import open_engine
from connector.engines.vectors import VECTORS_FILE, Vectors
from connector.errors import DataError, EngineError, SettingsError
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three documents and two bad lines."""
    path = tmp_path / "documents.jsonl"
    path.write_text(
        '{"_id": "1", "title": "Cats", "text": "Cats sleep."}\nnonsense\n'
        '{"_id": "2", "title": "Dogs", "text": "Dogs bark."}\n{"text": "no id"}\n'
        '{"_id": "1", "title": "Cats", "text": "Cats purr."}\n'
    )
    return path


def run(folder: Path, *arguments: str | Path, stdin: bytes | None = None) -> Result:
    options = ["--config", os.devnull, "--set", f"cache.path={folder / 'cache'}"]
    return CliRunner().invoke(cli, [*options, *map(str, arguments)], input=stdin)


def summary(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def ids(folder: Path, query: str, index: str = "default") -> list[str]:
    options = {"cache.path": str(folder / "cache"), "engine.index": index}
    with open_engine(load_settings(os.devnull, options, {})) as engine:
        return [hit.id for hit in engine.search(query, 100)]


def test_documents_go_in_and_bad_lines_are_named(tmp_path: Path, file: Path) -> None:
    result = run(tmp_path, "index", file)
    assert result.exit_code == 0
    assert result.stdout.startswith("indexed 3, replaced 1, skipped 2 (")
    assert "2 documents in default" in result.stdout
    told = result.stderr.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"Skipped: {file}, line 2: not JSON")
    assert told[1].startswith(f"Skipped: {file}, line 4: no _id")
    assert ids(tmp_path, "purr") == ["1"]
    assert ids(tmp_path, "sleep") == []


def test_json_summary(tmp_path: Path, file: Path) -> None:
    found = summary(run(tmp_path, "--json", "index", file, "--index", "animals"))
    assert found.pop("seconds") > 0
    bad = found.pop("bad_lines")
    assert [(line["file"], line["line"]) for line in bad] == [(str(file), 2), (str(file), 4)]
    assert all(line["reason"] for line in bad)
    assert found == {
        "index": "animals",
        "source": str(file),
        "indexed": 3,
        "replaced": 1,
        "skipped": 2,
        "without_text": 0,
        "documents": 2,
        "resumed_after_line": 0,
    }
    assert ids(tmp_path, "bark", "animals") == ["2"]


def test_again_replaces(tmp_path: Path, file: Path) -> None:
    run(tmp_path, "index", file)
    found = summary(run(tmp_path, "--json", "index", file))
    assert (found["indexed"], found["replaced"], found["documents"]) == (3, 3, 2)


def test_strict_stops(tmp_path: Path, file: Path) -> None:
    result = run(tmp_path, "index", file, "--strict")
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 5
    assert f"{file}, line 2: not JSON" in str(result.exception)
    # A command that ended in its first lines leaves nothing behind that is taken for an index.
    missing = run(tmp_path, "search", "--no-rerank", "cat")
    assert "there is no index" in str(missing.exception)


def test_a_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "Cats", "text": "sleep", "metadata": {}}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "cats"}\n')
    assert summary(run(tmp_path, "--json", "index", tmp_path))["documents"] == 1
    assert ids(tmp_path, "cats") == ["d1"]


def test_standard_input(tmp_path: Path) -> None:
    result = run(tmp_path, "--json", "index", "-", stdin=b'{"id": 1, "text": "cat"}\n')
    assert summary(result)["indexed"] == 1
    assert ids(tmp_path, "cat") == ["1"]


def test_only_the_named_fields(tmp_path: Path, file: Path) -> None:
    run(tmp_path, "index", file, "--fields", "title, year")
    assert ids(tmp_path, "dogs") == ["2"]
    assert ids(tmp_path, "bark") == []


@pytest.mark.parametrize("fields", ["", "a,,b", "title^2"])
def test_fields_that_are_none(tmp_path: Path, file: Path, fields: str) -> None:
    assert isinstance(run(tmp_path, "index", file, "--fields", fields).exception, SettingsError)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    result = run(tmp_path, "index", "-", stdin=b'{"_id": "1", "text": "x"}\n' + b"bad\n" * 50)
    told = result.stderr.splitlines()
    assert len(told) == 21
    assert told[-1] == "... and 30 more lines"
    assert "skipped 50" in result.stdout


@pytest.mark.parametrize(("stdin", "why"), [(b"", "it is empty"), (b"bad\n", "every line is bad")])
def test_a_source_without_documents_is_an_error(tmp_path: Path, stdin: bytes, why: str) -> None:
    result = run(tmp_path, "index", "-", stdin=stdin)
    assert isinstance(result.exception, DataError)
    assert why in str(result.exception)
    assert not list(tmp_path.rglob("*default*")), "an empty index was left behind"


def test_documents_without_text_are_told(tmp_path: Path) -> None:
    lines = b'{"_id": "1", "n": 5}\n{"_id": "2", "text": "Cats sleep."}\n{"_id": "3", "text": " "}\n'
    result = run(tmp_path, "index", "-", stdin=lines)
    assert result.exit_code == 0 and "Warning: 2 documents hold no text" in result.stderr
    assert summary(run(tmp_path, "--json", "index", "-", stdin=lines))["without_text"] == 2
    assert "Warning" not in run(tmp_path, "index", "-", stdin=b'{"_id": "2", "text": "Cats"}').stderr


def test_nothing_in_a_bad_line_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    raw = json.dumps({"_id": "a\u202eb"}).encode() + b'\n{"_id": "\\u001b[2J", "t": "x"}\n{"_id": "1", "t": "x"}'
    result = run(tmp_path, "index", "-", stdin=raw)
    assert len(result.stderr.splitlines()) == 2
    assert all(char.isprintable() or char in "\n\ufffd" for char in result.stderr)


def test_what_is_missing_is_told(tmp_path: Path, file: Path) -> None:
    assert isinstance(run(tmp_path, "index", tmp_path / "none").exception, DataError)
    # Not waited for: no cluster is there.
    cluster = ("--set", "engine.kind=opensearch", "--set", "engine.retry_ms=0")
    assert isinstance(run(tmp_path, *cluster, "index", file).exception, EngineError)


def test_nothing_but_json_is_on_standard_output_of_a_killed_and_continued_run(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'{{"_id": "{at}", "text": "cat {at}"}}\n' for at in range(2500)))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, "--set", f"cache.path={tmp_path / 'cache'}", "index", str(file)],
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    found = summary(run(tmp_path, "--json", "index", file))
    assert found["resumed_after_line"] == 2000
    assert (found["indexed"], found["replaced"], found["documents"]) == (2500, 0, 2500)
    assert len(ids(tmp_path, "cat 2001")) == 100


# The process dies when the third batch is being made.
_KILLED = """
import os, signal
from connector.cli import main
from connector.engines.sources import Source

read = Source.documents
def dying(self, bad, after=0):
    for line, document in read(self, bad, after):
        if line == 2300:
            os.kill(os.getpid(), signal.SIGKILL)
        yield line, document
Source.documents = dying
main()
"""


def test_control_c_says_how_to_go_on(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = embedded.EmbeddedEngine.index

    def interrupted(self: embedded.EmbeddedEngine, documents: Any, **options: Any) -> IndexReport:
        index(self, documents, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded.EmbeddedEngine, "index", interrupted)
    result = run(tmp_path, "index", file)
    assert result.exit_code == 1
    assert "Stopped: 3 documents are in the index. The same command continues." in result.stderr
    monkeypatch.undo()
    assert summary(run(tmp_path, "--json", "index", file))["resumed_after_line"] == 5


def test_vectors_beside_words(tmp_path: Path, file: Path) -> None:
    model = save_embedder(tmp_path / "tiny")
    with_model = ("--set", f"engine.embedder={model}")
    assert run(tmp_path, *with_model, "index", file).exit_code == 0
    assert (tmp_path / "cache" / "indexes" / "default" / VECTORS_FILE).is_file()
    options = {"cache.path": str(tmp_path / "cache"), "engine.embedder": str(model)}
    with open_engine(load_settings(os.devnull, options, {})) as engine:
        assert {hit.id for hit in engine.search("meow", 5)} == {"1", "2"}
    assert ids(tmp_path, "meow") == []
    result = run(tmp_path, "index", file)
    assert isinstance(result.exception, EngineError) and "set engine.embedder to it" in str(result.exception)
    assert run(tmp_path, *with_model, "index", file).exit_code == 0


def test_vectors_of_an_interrupted_run_are_made_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "many.jsonl"
    lines.write_text("".join(json.dumps({"_id": str(at), "text": "cats bread"}) + "\n" for at in range(700)))
    setting = ("--set", f"engine.embedder={save_embedder(tmp_path / 'tiny')}")
    real, calls = Embedder.documents, 0

    def stopped(self: Embedder, texts: list[str]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(self, texts)

    monkeypatch.setattr(Embedder, "documents", stopped)
    result = run(tmp_path, *setting, "index", lines)
    assert result.exit_code == 1 and "Stopped: 500 documents are in the index. The same command" in result.stderr
    found = summary(run(tmp_path, *setting, "--json", "index", lines))
    assert (found["resumed_after_line"], found["indexed"], found["documents"]) == (500, 700, 700)
    path = tmp_path / "cache" / "indexes" / "default"
    vectors = Vectors(path, Embedder.load(str(tmp_path / "tiny")))
    vectors.refresh()
    assert vectors.count() == 700


def test_a_sample_to_try_is_indexed_and_found(tmp_path: Path) -> None:
    found = summary(run(tmp_path, "index", "--sample", "--index", "try", "--json"))
    assert found["index"] == "try" and found["indexed"] == found["documents"] > 5000 and not found["bad_lines"]
    assert "str.split" in ids(tmp_path, "split a string at a separator", "try")
    # It is a file like any other.
    file = Path(found["source"])
    assert file.parent == tmp_path / "cache" / "samples" and list(file.parent.iterdir()) == [file]
    first = json.loads(file.read_text().splitlines()[0])
    assert set(first) == {"_id", "title", "text"}
    before = file.stat().st_mtime_ns
    again = run(tmp_path, "index", "--sample", "--index", "try")
    assert again.exit_code == 0 and f"The documents are in {file}. Ask them: " in again.stderr
    assert f"replaced {found['indexed']:,}" in again.stdout and file.stat().st_mtime_ns == before


def test_without_a_source_the_sample_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, "index")
    assert isinstance(result.exception, SettingsError)
    assert "SOURCE is missing" in str(result.exception) and "--sample" in str(result.exception)
    both = run(tmp_path, "index", "--sample", "pets.jsonl")
    assert isinstance(both.exception, SettingsError) and "pets.jsonl" in str(both.exception)
    assert not (tmp_path / "cache").exists()


def test_a_sample_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    result = run(tmp_path, "index", "--sample")
    assert isinstance(result.exception, DataError) and "set cache.path" in str(result.exception)
