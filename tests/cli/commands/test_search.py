"""``rh-connector search``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connector.cli import main
from connector.cli.context import Context
from connector.cli.models import Models
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.engines.open_engine import open_engine
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.loaded_models import LoadedModels

_TEXTS = {
    "rust": "Rust is a systems programming language that guarantees memory safety.",
    "cats": "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
    "whiskers": "A cat's whiskers are as wide as its body: how long they are differs from cat to cat, and cats vary.",
    "bread": "To bake bread, mix flour, water, salt and yeast and let the dough sleep for a long time.",
}
_ODD = {
    "nul": "sleep \x00 and \x1b[31mred\x1b[0m\x07",
    "lone": "sleep \ud800 surrogate",
    "emoji": "sleep \U0001f408\u200d\U0001f4a4 \U0001f1e6",
    "rtl": "sleep \u05e9\u05dc\u05d5\u05dd \u202eover\u202c \u0645\u0631\u062d\u0628\u0627",
    "[bold]markup[/nothing]": "sleep [red]not a colour[/red] [/]",
    "empty": "",
    "lines": "\n\n\t\r\nsleep after empty lines",
}


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    for name, texts in (("plain", _TEXTS), ("odd", _ODD)):
        engine = EmbeddedEngine(folder / name)
        engine.index(Document(identity, {"title": "", "text": text}) for identity, text in texts.items())
        engine.close()
    return folder


@pytest.fixture
def search(indexes: Path, models: LoadedModels) -> Callable[..., int]:
    def run(*arguments: str, before: tuple[str, ...] = ("--json",), models: LoadedModels = models) -> int:
        options = [*before, "--set", f"engine.url={indexes}", "--set", "engine.index=plain"]
        with pytest.raises(SystemExit) as ended:
            main([*options, "search", *arguments], Context(models=models))
        return int(ended.value.code or 0)

    return run


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


def test_hits_that_vectors_alone_found_are_reranked(
    tmp_path: Path, models: LoadedModels, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"engine.url": str(tmp_path / "indexes"), "engine.embedder": str(save_embedder(tmp_path / "tiny"))}
    with open_engine(load_settings("/dev/null", settings, {})) as engine:
        engine.index(Document(identity, {"text": text}) for identity, text in _TEXTS.items())
    assignments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit) as ended:
        main(["--json", *assignments, "search", "slumber of felines"], Context(models=models))
    assert not ended.value.code
    found = printed(capsys)
    assert found["reranked"] is True and {hit["id"] for hit in found["hits"]} == set(_TEXTS)
    assert [hit["first_stage_rank"] for hit in sorted(found["hits"], key=lambda hit: -hit["first_stage_score"])] == [
        *range(1, len(_TEXTS) + 1)
    ]


def test_json(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("how long do cats sleep") == 0
    found = printed(capsys)
    assert found["query"] == "how long do cats sleep"
    assert found["reranked"] is True
    assert found["reason"] is None
    assert found["heads"]
    assert {"first_stage", "encode", "read", "total"} <= found["timings_ms"].keys()
    hits = found["hits"]
    assert {hit["id"] for hit in hits} == {"cats", "whiskers", "bread"}
    assert sorted(hit["place_before"] for hit in hits) == [1, 2, 3]
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    for hit in hits:
        assert hit["fields"]["text"] == _TEXTS[hit["id"]]
        assert hit["place_before"] == hit["first_stage_rank"] == hit["index"] + 1
        assert hit["passages"] == 1


def test_hits_behind_the_window_keep_their_order(
    search: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("how long do cats sleep", "--no-rerank") == 0
    before = printed(capsys)
    assert before["reranked"] is False
    assert before["heads"] == []
    order = [hit["id"] for hit in before["hits"]]
    assert [hit["place_before"] for hit in before["hits"]] == [1, 2, 3]
    assert search("how long do cats sleep", "--window", "2") == 0
    hits = printed(capsys)["hits"]
    assert {hit["id"] for hit in hits[:2]} == set(order[:2])
    assert hits[2]["id"] == order[2]
    assert hits[2]["head_score"] is None
    assert hits[2]["score"] < hits[1]["score"]
    assert hits[2]["first_stage_score"] == before["hits"][2]["first_stage_score"]


def test_size(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("cats sleep", "-k", "1") == 0
    assert len(printed(capsys)["hits"]) == 1


def test_table(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("how long do cats sleep", "--explain", before=()) == 0
    text = capsys.readouterr().out
    for part in (
        "place",
        "moved",
        "whiskers",
        "Adult cats sleep",
        "looked at:",
        "heads (layer.head gate), static",
        "encode",
    ):
        assert part in text
    assert "first stage" in text
    assert "1 passage read" in text


def test_a_query_may_start_with_a_dash(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--no-rerank", "--", "-k cats") == 0
    assert printed(capsys)["query"] == "-k cats"


def test_a_query_of_several_words_needs_no_quotes(
    search: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--no-rerank", "how", "long", "do", "cats", "sleep", "-k", "1") == 0
    found = printed(capsys)
    assert found["query"] == "how long do cats sleep" and len(found["hits"]) == 1


def test_nothing_found(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("zzzz", before=()) == 0
    assert capsys.readouterr().out == "Nothing found; try other words.\n"
    assert search("zzzz") == 0
    found = printed(capsys)
    assert found["hits"] == []
    assert found["reranked"] is False


def test_missing_index(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("cats", "--index", "nowhere") == 3
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "nowhere" in error
    assert error.count("\n") == 1


def test_empty_query(search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("  ") == 2
    assert capsys.readouterr().err == "Error: search: QUERY is empty; give the words to search for\n"


def test_a_deadline_leaves_the_engine_order(
    search: Callable[..., int], reranker: Reranker, capsys: pytest.CaptureFixture[str]
) -> None:
    late = LoadedModels(Reranker(reranker.reader, reranker.routes, deadline_ms=0))
    assert search("how long do cats sleep", "--explain", before=(), models=late) == 0
    told = capsys.readouterr()
    assert told.err == "Not reranked (deadline): the hits keep the engine's order.\n"
    assert "↑" not in told.out
    assert "↓" not in told.out


@pytest.mark.parametrize("query", ["sleep \x00", "sleep \udc80\ud800", "sleep \U0001f408\u200d", "\u202esleep"])
def test_odd_text(query: str, search: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert search(query, "--index", "odd", "--explain", before=()) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "[bold]markup[/nothing]" in told.out
    # Nothing that a terminal obeys comes through.
    assert not {"\x00", "\x07", "\x1b", "\u202e"} & set(told.out)
    assert search(query, "--index", "odd") == 0
    found = printed(capsys)
    assert found["query"] == query
    assert len(found["hits"]) == 6


def test_a_terminal_without_unicode(
    search: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert search("how long do cats sleep", "--index", "odd", "--explain", before=()) == 0
        assert search("how long do cats sleep", "--window", "3", "--explain", before=()) == 0
    text = (tmp_path / "out").read_text(encoding="ascii")
    assert ">>" in text
    assert "=" in text


def test_without_the_model_the_error_says_so(
    indexes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(indexes / "plain", tmp_path / "indexes" / "default")
    options = ("--set", f"cache.path={tmp_path}", "--set", "backbone.offline=true", "--set", "backbone.model=nothing")
    with pytest.raises(SystemExit) as ended:
        main([*options, "search", "cats"])
    assert ended.value.code == 4
    assert "nothing" in capsys.readouterr().err


def test_an_index_that_is_not_there_tells_which_are(
    search: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    # No model is loaded for it.
    assert search("cats", "--index", "plian", models=Models()) == 3
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "there is no index in" in told.err and told.err.endswith("; there are: plain, odd\n")


def test_where_there_is_no_index_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SystemExit) as ended:
            main(["search", "cats", "--set", f"engine.url={folder}"])
        assert ended.value.code == 3
        assert capsys.readouterr().err.endswith("rh-connector index SOURCE; there is no other index\n")
