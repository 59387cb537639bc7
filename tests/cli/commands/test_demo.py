"""``rh-connector demo``."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import demo_index, main
from connector.cli.context import Context
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.errors import EngineError
from connector.sections import Settings
from tests.loaded_models import LoadedModels

_QUESTION = "which items occur most often in a list"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, settings: Settings, smollm2: Checkpoint) -> Iterator[Path]:
    """A cache folder of its own that borrows the weights."""
    folder = tmp_path_factory.mktemp("cache")
    for part in settings.cache.path.iterdir():
        if part.name != "indexes":
            (folder / part.name).symlink_to(part)
    yield folder


@pytest.fixture
def run(cache: Path, models: LoadedModels) -> Callable[..., int]:
    def call(*arguments: str, before: tuple[str, ...] = ()) -> int:
        with pytest.raises(SystemExit) as ended:
            main(
                [*before, "--set", f"cache.path={cache}", "demo", "--window", "5", *arguments], Context(models=models)
            )
        return int(ended.value.code or 0)

    return call


def test_an_index_has_a_plain_name(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--index", "a/b") == 2
    assert "engine.index = 'a/b': give a plain name" in capsys.readouterr().err


@pytest.mark.slow
def test_first_and_second_run(
    run: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--query", _QUESTION) == 0
    text = capsys.readouterr().out
    assert "documentation, indexed (" in text
    assert "is loaded; of its 270 heads " in text
    assert f"1/1  {_QUESTION}" in text
    assert "the heads looked at, in " in text
    assert "1 question answered, 5 documents read" in text
    assert "not that it is better" in " ".join(text.split())
    assert [path.name for path in (cache / "indexes").iterdir()] == ["demo"]

    monkeypatch.setattr(demo_index, "standard_library_documents", lambda: pytest.fail("indexed again"))
    assert run("--query", _QUESTION, before=("--json",)) == 0
    told = capsys.readouterr()
    assert "documentation, from before (" in told.err
    found = json.loads(told.out)
    assert found["documents"] > 3000
    (answer,) = found["queries"]
    assert answer["query"] == _QUESTION
    assert answer["reranked"] is True
    assert sorted(hit["place_before"] for hit in answer["hits"]) == [1, 2, 3, 4, 5]
    assert {"index", "model", "questions"} == found["seconds"].keys()


def test_what_is_printed_to_type_next_works(
    run: Callable[..., int], cache: Path, models: LoadedModels, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--query", "what's in a list") == 0
    lines = capsys.readouterr().out.partition("What to type next\n")[2].partition("\nLook at it: ")[0].splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    calls = [shlex.split(line) for line in commands]
    assert [next(word for word in call if word in _WORDS) for call in calls] == [
        *("search", "serve", "curl", "echo", "index", "search", "evaluate")
    ]
    assert calls[0][-1] == "what's in a list"
    assert all(f"cache.path={cache}" in call for call in calls if call[0].endswith("rh-connector"))
    # The search that is printed is run, the curl's body is JSON, the document is a line that indexing takes.
    assert _main(calls[0][1:], models) == 0
    assert "looked at:" in capsys.readouterr().out
    body = json.loads(calls[2][-1])
    assert len(body["documents"]) == 2
    assert json.loads(calls[3][1]).keys() == {"_id", "title", "text"}
    assert _main(calls[6][1:]) == 0


_WORDS = {"search", "serve", "curl", "echo", "index", "evaluate"}


def _main(arguments: list[str], models: LoadedModels | None = None) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments, None if models is None else Context(models=models))
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_all_questions_with_other_settings(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has a cluster configured gets the same demo, and commands that name its engine."""
    config = tmp_path / "config.yaml"
    config.write_text("engine: {kind: opensearch, url: 'http://127.0.0.1:9', fields: [body], index: mine}\n")
    settings = ("--config", str(config), "--set", "backbone.max_document_tokens=16")
    assert run("--window", "2", before=settings) == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    assert "38 questions answered, " in flat and "The first hit is right for " in flat
    assert " than the first stage: nDCG@10 from " in flat or "No difference to the first stage that shows" in flat
    assert "chosen before any was searched" in flat
    assert "(right: " in text and "<- right" in text
    assert text.rstrip().splitlines()[-1].endswith(" demo --serve opens a page at http://127.0.0.1:8080/")
    search = next(line for line in text.splitlines() if " search --index demo" in line)
    assert "--set engine.kind=embedded --set engine.url= --set engine.fields= search" in search
    assert _main([*shlex.split(search)[1:-3], "--no-rerank", "--", "list"]) == 0

    capsys.readouterr()
    assert run("--window", "2", before=("--json", *settings)) == 0
    told = json.loads(capsys.readouterr().out)
    summary, queries = told["summary"], told["queries"]
    assert summary["questions"] == len(queries) == 38
    assert summary["won"] + summary["lost"] + summary["equal"] == 38
    assert summary["first_hit_right"] == [
        sum(query[place] == 1 for query in queries) for place in ("place_before", "place_after")
    ]
    for query in queries:
        ids = [hit["id"] for hit in query["hits"]]
        assert query["place_after"] == (ids.index(query["right"]) + 1 if query["right"] in ids else None)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        port = f"serve.port={taken.getsockname()[1]}"
        # Without models: loading one would fail.
        main(["--set", f"cache.path={cache / 'none'}", "--set", port, "demo", "--serve"], Context())
    assert ended.value.code == 2 and "or serve.host and serve.port" in capsys.readouterr().err
    assert not (cache / "none").exists()


def test_empty_question(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--query", " ") == 2
    assert capsys.readouterr().err == "Error: demo: --query is empty; give a question in plain words\n"


def test_nothing_found(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--query", "zzzzqqqq \udc80\x1b[31m") == 0
    text = capsys.readouterr().out
    assert "Nothing found; try other words." in text
    assert "\x1b" not in text


def test_somebody_elses_index_is_left_alone(
    run: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = EmbeddedEngine(cache / "indexes" / "precious")
    engine.index([Document("one", {"text": "precious"})])
    engine.close()
    assert run("--index", "precious") == 3
    assert "rh-connector demo --index NAME" in capsys.readouterr().err
    assert EmbeddedEngine(cache / "indexes" / "precious").count() == 1


@pytest.fixture
def two_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(str(number), {"text": f"number {number}"}) for number in range(2)]
    monkeypatch.setattr(demo_index, "standard_library_documents", lambda: iter(documents))


def open_index(path: Path) -> tuple[int, bool]:
    engine, was_there = demo_index.open_demo_index(path, lambda what: None)
    count = engine.count()
    engine.close()
    return count, was_there


def test_another_python_indexes_again(two_documents: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_index(tmp_path / "demo") == (2, False)
    assert open_index(tmp_path / "demo") == (2, True)
    monkeypatch.setattr(demo_index.platform, "python_version", lambda: "9.9.9")
    assert open_index(tmp_path / "demo") == (2, False)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_damaged_index_is_made_again(two_documents: None, tmp_path: Path) -> None:
    assert open_index(tmp_path / "demo") == (2, False)
    (tmp_path / "demo" / "meta.json").write_text("{")
    assert open_index(tmp_path / "demo") == (2, False)
    (tmp_path / "demo" / "rh-index.json").unlink()
    assert open_index(tmp_path / "demo") == (2, False)


def test_a_stopped_demo_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> Iterator[Document]:
        yield Document("one", {"text": "one"})
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_index, "standard_library_documents", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_index(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(two_documents: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot make the demo's index"):
        open_index(tmp_path / "file" / "demo")


def test_set_wins_over_the_sizes_of_the_demo(run: Callable[..., int], models: LoadedModels) -> None:
    assert run("--query", "zzzzqqqq", before=("--set", "backbone.max_document_tokens=64")) == 0
    assert (models.asked[-1].backbone.max_document_tokens, models.asked[-1].backbone.max_passages) == (64, 1)


@pytest.mark.slow
def test_serve(cache: Path) -> None:
    """A process of its own, as a person starts it: the page on loopback, whatever the settings say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--json", "--set", f"cache.path={cache}", "--set", f"serve.port={port}"]
    asked = ["demo", "--window", "2", "--serve"]
    code = "from connector.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options, *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RH_SERVE__HOST": "0.0.0.0"},
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert url == f"http://127.0.0.1:{port}"
        body: dict[str, Any] = {"query": "how long do cats sleep", "documents": ["Bread needs yeast.", "Cats sleep."]}
        request = Request(f"{url}/v1/rerank", json.dumps(body).encode(), {"content-type": "application/json"})
        until = time.monotonic() + 60
        while True:
            try:
                with urlopen(request, timeout=30) as answer:
                    assert len(json.loads(answer.read())["results"]) == 2
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        with urlopen(f"{url}/ui?q=compress+a+file&window=2", timeout=60) as page:
            text = page.read().decode()
        assert 'class="hit' in text
    finally:
        process.terminate()
        process.communicate(timeout=30)
