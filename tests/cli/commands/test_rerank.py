"""``rh-connector rerank``: JSON lines, and whole runs that can be interrupted."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connector.cli import main
from connector.cli.commands.rerank import _tag
from connector.cli.context import Context
from connector.cli.models import Models
from connector.embedding.embedder import Embedder
from connector.evaluation.runs import read_run
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.evaluation.folders import DOCUMENTS, write_collection, write_jsonl
from tests.loaded_models import LoadedModels
from tests.reranking.test_cascade import failing

Feed = Callable[[bytes], None]


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    """Puts bytes on standard input."""
    return lambda raw: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


def run(*arguments: str | Path, models: Models | None = None) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments], Context(models=models or Models()))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def answers(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """JSON lines of standard output, lines of standard error."""
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err.splitlines()


def test_a_line_is_answered_as_the_design_says(
    models: LoadedModels, feed: Feed, capsys: pytest.CaptureFixture[str], cats: list[str]
) -> None:
    request = {"id": "first", "query": "How long do cats sleep?", "documents": cats, "first_stage": "order"}
    feed(json.dumps(request).encode())
    assert run("rerank", models=models) == 0
    (answer,), _ = answers(capsys)
    assert answer["id"] == "first"
    assert (answer["reranked"], answer["reason"]) == (True, None)
    assert sorted(hit["index"] for hit in answer["hits"]) == list(range(len(cats)))
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert {hit["first_stage_rank"] for hit in answer["hits"]} == set(range(1, len(cats) + 1))
    assert {"hits", "reranked", "reason", "heads", "timings_ms"} <= answer.keys()
    assert all("head_score" in hit and "truncated" in hit for hit in answer["hits"])


def test_a_tag_tells_what_was_read(tmp_path: Path) -> None:
    usual = _tag(load_settings("/dev/null", {}, {}))
    assert usual.endswith("-w20")
    short = _tag(load_settings("/dev/null", {"backbone.max_passages": 1, "backbone.dtype": "float32"}, {}))
    assert short == f"{usual}-dtype-float32-max_passages-1"
    beside = _tag(load_settings("/dev/null", {"router.embedder": "bge-small-en-v1.5"}, {}))
    assert beside == usual.replace("-auto-", "-auto-with-bge-small-en-v1.5-", 1)
    # Another model under the same name is another one.
    folder = save_embedder(tmp_path / "bge-small-en-v1.5")
    digest = Embedder.load(str(folder)).digest[:8]
    other = _tag(load_settings("/dev/null", {"router.embedder": str(folder)}, {}))
    assert other == beside.replace("en-v1.5", f"en-v1.5-{digest}")


def test_keys_without_effect_are_named(
    models: LoadedModels, feed: Feed, capsys: pytest.CaptureFixture[str], cats: list[str]
) -> None:
    request = {
        "query": "cats",
        "documents": cats[:2],
        "first_stage": "order",
        "top_n": 1,
        "user": None,
        "färbe": "rot",
    }
    feed(json.dumps(request).encode())
    assert run("rerank", models=models) == 0
    (answer,), _ = answers(capsys)
    assert answer["ignored_keys"] == ["top_n", "färbe"] and len(answer["hits"]) == 2
    del request["top_n"], request["färbe"]
    feed(json.dumps(request).encode())
    assert run("rerank", models=models) == 0
    assert "ignored_keys" not in answers(capsys)[0][0]


def test_wrong_lines_are_named_and_the_others_answered_in_order(
    models: LoadedModels, feed: Feed, capsys: pytest.CaptureFixture[str], cats: list[str]
) -> None:
    good = [{"id": at, "query": "cats", "documents": cats[:2]} for at in range(3)]
    wrong = [
        b"{",
        b"[1]",
        b'{"documents": []}',
        b'{"query": "cats", "documents": "one"}',
        b'{"query": "cats", "documents": ["a", 3]}',
        b'{"query": " ", "documents": ["a", "b"]}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage": "best"}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1]}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1, NaN]}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1, 1e999]}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1, 1' + b"0" * 400 + b"]}",
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1, true]}',
        b'{"query": "cats", "documents": ["a", "b"], "first_stage_scores": [1, 2], "first_stage": "order"}',
        b'{"query": "cats", "documents": ["a", "b"], "deadline_ms": 0}',
        b'{"query": "cats", "documents": ["a", "b"], "id": [1]}',
        b'{"query": "\xff", "documents": []}',
        b"[" * 100_000,
    ]
    lines = [json.dumps(good[0]).encode(), *wrong, b"", json.dumps(good[1]).encode(), json.dumps(good[2]).encode()]
    feed(b"\n".join(lines))
    before = len(models.asked)
    assert run("rerank", models=models) == 5
    found, errors = answers(capsys)
    assert [answer["id"] for answer in found] == [0, 1, 2]
    *named, last = errors
    assert [error.split(":")[1].strip() for error in named] == [f"line {at}" for at in range(2, len(wrong) + 2)]
    assert f"{len(wrong)} of" in last
    assert len(models.asked) == before + 1, "one model for all lines"


def test_wrong_lines_need_no_model(feed: Feed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed(b"nonsense\n")
    assert run("--set", f"backbone.model={tmp_path / 'none'}", "rerank") == 5
    feed(b"")
    assert run("--set", f"backbone.model={tmp_path / 'none'}", "rerank") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["\ud800 half an emoji", "nul \x00 inside", "🐈‍⬛ naps", "\u2028", "<|im_start|>", "ü" * 900]
)
def test_any_text_is_answered(
    models: LoadedModels, feed: Feed, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    documents = [text, {"title": text, "text": "cats sleep"}, "", "dogs"]
    feed(json.dumps({"id": text[:8], "query": f"cats {text[:20]}", "documents": documents}).encode())
    assert run("rerank", models=models) == 0
    (answer,), _ = answers(capsys)
    assert answer["id"] == text[:8]
    assert answer["reranked"] is True
    assert sorted(hit["index"] for hit in answer["hits"]) == [0, 1, 2, 3]


def test_a_deadline_hands_the_order_back(
    models: LoadedModels, feed: Feed, capsys: pytest.CaptureFixture[str], cats: list[str]
) -> None:
    line = {"query": "cats", "documents": cats, "first_stage_scores": [1, 5, 2, 4, 3], "deadline_ms": 0.0001}
    feed(json.dumps(line).encode())
    assert run("rerank", models=models) == 0
    (answer,), _ = answers(capsys)
    assert (answer["reranked"], answer["reason"]) == (False, "deadline")
    assert [hit["index"] for hit in answer["hits"]] == [1, 3, 4, 2, 0]
    assert "id" not in answer


class Parts:
    """A collection and a run over it."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.models = models
        self.collection = write_collection(folder / "collection")
        self.run = folder / "in.trec"
        self.out = folder / "out.trec"
        ids = [document["_id"] for document in DOCUMENTS]
        lines = [f"{query} Q0 {ids[at]} {at + 1} {9 - at} bm25\n" for query in ("q2", "q1") for at in (0, 1, 2, 3)]
        self.run.write_text("".join(lines))

    def rerank(self, *more: str | Path) -> int:
        return run("--json", "rerank", "--run", self.run, "--out", self.out, *more, models=self.models)


@pytest.fixture
def parts(tmp_path: Path, models: LoadedModels) -> Parts:
    """Texts and a run in a new folder."""
    return Parts(tmp_path, models)


def ids(entries: Sequence[tuple[str, float]]) -> list[str]:
    return [entry[0] for entry in entries]


def test_a_run_is_reranked_within_its_window(
    models: LoadedModels, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parts.rerank("--collection", parts.collection, "--window", "3", "--tag", "mine") == 0
    (summary,), _ = answers(capsys)
    assert summary == {"out": str(parts.out), "tag": "mine", "queries": 2, "kept": 0, "unchanged": 0}
    before, after = read_run(parts.run), read_run(parts.out)
    assert list(after) == ["q2", "q1"]
    for query, entries in after.items():
        assert sorted(ids(entries)) == sorted(ids(before[query]))
        assert ids(entries)[3:] == ["bread"], "behind the window"
        scores = [entry.score for entry in entries]
        assert all(a > b for a, b in zip(scores, scores[1:], strict=False))
    lines = [line.split() for line in parts.out.read_text().splitlines()]
    assert {line[5] for line in lines} == {"mine"}
    assert [line[3] for line in lines] == ["1", "2", "3", "4"] * 2


def test_every_place_of_interruption_gives_the_same_run(
    models: LoadedModels, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parts.rerank("--collection", parts.collection) == 0
    whole = parts.out.read_bytes()
    first = whole.index(b"q1")
    for size in (0, 1, first - 1, first, first + 1, len(whole) - 1, len(whole)):
        parts.out.write_bytes(whole[:size])
        capsys.readouterr()
        assert parts.rerank("--collection", parts.collection) == 0
        (summary,), _ = answers(capsys)
        assert summary["kept"] == (size >= first) + (size == len(whole))
        assert [line.split()[:4] for line in parts.out.read_bytes().splitlines()] == [
            line.split()[:4] for line in whole.splitlines()
        ]


def test_a_finished_run_needs_no_model(
    models: LoadedModels, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.rerank("--collection", parts.collection)
    before = len(models.asked)
    assert parts.rerank("--collection", parts.collection) == 0
    assert len(models.asked) == before


def test_another_run_is_not_continued(models: LoadedModels, parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    parts.rerank("--collection", parts.collection, "--window", "2")
    kept = parts.out.read_bytes()
    assert parts.rerank("--collection", parts.collection, "--window", "3") == 5, "the tag names the window"
    assert "line 1 is not of this run" in capsys.readouterr().err
    parts.run.write_text(parts.run.read_text().splitlines()[0])
    assert parts.rerank("--collection", parts.collection, "--window", "2") == 5
    assert parts.out.read_bytes() == kept


def test_texts_come_from_the_engine_by_id(
    models: LoadedModels, parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from connector.documents import Document
    from connector.engines.open_engine import open_engine
    from connector.settings import load_settings

    folder = tmp_path / "indexes"
    engine = open_engine(load_settings("/dev/null", {"engine.url": str(folder)}))
    engine.index(Document(value["_id"], {"title": value["title"], "text": value["text"]}) for value in DOCUMENTS)
    engine.close()
    queries = parts.collection / "queries.jsonl"
    arguments: list[str | Path] = [
        "--set",
        f"engine.url={folder}",
        "rerank",
        "--run",
        parts.run,
        "--out",
        parts.out,
        "--queries",
        queries,
    ]
    assert run(*arguments, models=models) == 0
    assert sorted(ids(read_run(parts.out)["q1"])) == sorted(document["_id"] for document in DOCUMENTS)
    assert "2 queries" in capsys.readouterr().err


def test_texts_that_are_missing_are_named(
    models: LoadedModels, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(models.asked)
    write_jsonl(parts.collection / "queries.jsonl", [{"_id": "q2", "text": "baking"}])
    assert parts.rerank("--collection", parts.collection) == 5
    assert "query q1 of the run has no text" in capsys.readouterr().err
    write_collection(parts.collection)
    write_jsonl(parts.collection / "corpus.jsonl", DOCUMENTS[1:])
    assert parts.rerank("--collection", parts.collection) == 5
    assert "lacks document cats of the run (1 in all)" in capsys.readouterr().err
    assert len(models.asked) == before


def test_options_that_do_not_fit_are_refused(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rerank", "--out", parts.out) == 2
    assert run("rerank", "--run", parts.run) == 2
    assert run("rerank", "--run", parts.run, "--out", parts.run, "--collection", parts.collection) == 2
    assert parts.rerank() == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    for error, word in zip(errors, ("--out goes with --run", "needs --out", "same file", "--queries"), strict=True):
        assert word in error


def test_a_run_of_other_texts_is_not_continued(parts: Parts) -> None:
    own = parts.collection / "queries.jsonl"
    assert parts.rerank("--collection", parts.collection) == 0
    before = parts.out.read_text()
    assert parts.rerank("--collection", parts.collection) == 0
    lines = [json.loads(line) for line in own.read_text().splitlines()]
    own.write_text("".join(json.dumps({**line, "text": f"{line['text']} now"}) + "\n" for line in lines))
    assert parts.rerank("--collection", parts.collection) == 5
    assert parts.out.read_text() == before


def test_a_runs_tag_names_the_second_model() -> None:
    def tag(**given: str) -> str:
        options = {name.replace("__", "."): value for name, value in given.items()}
        return _tag(load_settings("/dev/null", options, environment={}))

    plain, both = tag(), tag(cascade__model="qwen2.5-coder-0.5b", cascade__hits="7")
    assert plain == tag(cascade__hits="7") and both == f"{plain}-qwen2.5-coder-0.5b-h7"
    assert tag(cascade__model="a/b", cascade__bundle="mine.onnx") == f"{plain}-b-h5-mine"


def test_a_run_takes_the_second_model_without_a_budget_and_a_whole_index_none(
    models: LoadedModels, tmp_path: Path
) -> None:
    folder = write_collection(tmp_path / "pets")
    (tmp_path / "in.trec").write_text("q1 Q0 rust 1 2.0 x\nq1 Q0 cats 2 1.0 x\n")
    given = ["--set", "cascade.model=qwen2.5-coder-0.5b", "--set", "cascade.budget_ms=1"]
    place = ["--set", f"engine.url={tmp_path / 'indexes'}"]
    run_in = ["rerank", "--run", tmp_path / "in.trec", "--collection", folder, "--out", tmp_path / "out.trec"]
    assert run(*given, *run_in, models=models) == 0
    told = models.asked[-1].cascade
    assert (told.model, told.budget_ms) == ("qwen2.5-coder-0.5b", None)
    assert run(*place, "index", folder / "corpus.jsonl", models=models) == 0
    queries = ["--queries", folder / "queries.jsonl", "--out", tmp_path / "all.trec"]
    assert run(*given, *place, "rerank", "--whole-index", *queries, models=models) == 0
    assert models.asked[-1].cascade.model is None


@pytest.mark.slow
def test_the_command_loads_both_models_of_a_cascade(
    feed: Feed, capsys: pytest.CaptureFixture[str], cats: list[str]
) -> None:
    feed(json.dumps({"query": "How long do cats sleep?", "documents": cats}).encode())
    given = ["--config", "/dev/null", "--set", "cascade.model=smollm2-135m", "--set", "cascade.hits=2"]
    assert run(*given, "rerank") == 0
    (answer,), _ = answers(capsys)
    assert answer["second_hits"] == 2
    assert sum("second_score" in hit for hit in answer["hits"]) == 2


def test_a_run_tells_of_queries_that_the_second_model_did_not_read(
    reranker: Reranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the card is gone")

    folder = write_collection(tmp_path / "pets")
    (tmp_path / "in.trec").write_text("q1 Q0 rust 1 2.0 x\nq1 Q0 cats 2 1.0 x\n")
    run_in = ["rerank", "--run", tmp_path / "in.trec", "--collection", folder, "--out", tmp_path / "out.trec"]
    assert run(*run_in, models=LoadedModels(failing(reranker, broken))) == 0
    told = capsys.readouterr().err
    assert "1 query was not reranked as asked" in told and "q1: the second model has read nothing of it" in told
