"""``rh-connector evaluate``, with the real LLM and real bundles on a tiny collection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.cli.context import Context
from connector.cli.models import Models
from connector.documents import Document, Hit
from connector.embedding.embedder import Embedder
from connector.engines.open_engine import open_engine
from connector.errors import BackboneError, DataError, SettingsError
from connector.evaluation.report import report_from_json
from connector.evaluation.runs import read_run
from connector.heads.head_sets import shipped_path
from connector.reranking.reranker import Reranker
from connector.routing.selection import Routes
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.loaded_models import LoadedModels
from tests.routing.embedder_router import embedder_router
from tests.routing.heads_router import heads_router

DOCUMENTS = {
    "cats": "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
    "whiskers": "A cat's whiskers are as wide as its body and help it to judge gaps.",
    "bread": "To bake bread, mix flour, water, salt and yeast and let the dough rest for hours.",
    "stocks": "Shares closed higher on the day after hours of trading.",
    "empty": "",
    "river": "The river runs through the valley to the sea for hours a day.",
}
QUERIES = {
    "q1": ("how many hours do cats sleep a day", "cats"),
    "q2": ("bake bread flour hours", "bread"),
    "q3": ("hours of trading a day", "stocks"),
}
# Heads are read in it.
LAYOUT = ("--set", "backbone.layout=late")


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


@pytest.fixture(scope="module")
def models(late_reranker: Reranker) -> LoadedModels:
    return LoadedModels(late_reranker)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    lines = (json.dumps({"_id": key, "title": "", "text": text}) for key, text in DOCUMENTS.items())
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    asked = (json.dumps({"_id": key, "text": text}) for key, (text, _) in QUERIES.items())
    (folder / "queries.jsonl").write_text("\n".join(asked))
    judged = "".join(f"{key}\t{document}\t1\n" for key, (_, document) in QUERIES.items())
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    # A first stage that also finds a document without text, before others.
    order = ["river", "empty", "stocks", "whiskers", "bread", "cats"]
    run = (f"{query} Q0 {name} {at} {9 - at}.0 x\n" for query in QUERIES for at, name in enumerate(order, 1))
    (folder / "first.trec").write_text("".join(run))
    return folder


@pytest.fixture(scope="module")
def cache(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of its own, with the real model in it."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").mkdir()
    (folder / "models" / "smollm2-135m").symlink_to(smollm2.path)
    return folder


def invoke(models: Models, cache: Path, *arguments: str | Path) -> Result:
    given = ["--json", "--set", f"cache.path={cache}", *LAYOUT, *map(str, arguments)]
    return CliRunner().invoke(cli, given, obj=Context(models=models), catch_exceptions=False)


def measured(models: Models, cache: Path, *arguments: str | Path) -> Any:
    result = invoke(models, cache, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def names(value: Any) -> list[tuple[str, str | None]]:
    return [(row["name"], row["readout"]) for row in value["rows"]]


def twice(*plain: tuple[str, str]) -> list[tuple[str, str]]:
    return [(f"{name}{suffix}", readout) for name, readout in plain for suffix in ("", "+first-stage")]


CONTROLS = [(name, "pool") for name in ("random", "static", "routed", "permuted")]


@pytest.mark.slow
def test_rows_runs_and_values_are_the_reranker_s(
    collection: Path, cache: Path, models: LoadedModels, reranker: Reranker, tmp_path: Path
) -> None:
    router = heads_router(tmp_path / "r.onnx", reranker.reader.fingerprint, reranker.reader.template_hash)
    sources = [{"source": "tiny:train", "used": 3}]
    known = heads_router(
        tmp_path / "left.onnx", reranker.reader.fingerprint, reranker.reader.template_hash, sources=sources
    )
    arguments: Sequence[str | Path] = (
        *("evaluate", collection, "--run", "first.trec", "--window", "6", "--bundle", router.path, "--timed", "1"),
        *("--left-out", known.path, "--runs", tmp_path / "runs", "--out", tmp_path / "report.json"),
    )
    result = invoke(models, cache, *arguments)
    assert result.exit_code == 0, result.output
    assert "left.onnx was trained on tiny" in result.stderr
    value = json.loads(result.stdout)
    assert value == json.loads((tmp_path / "report.json").read_text())
    static = [("static", readout) for readout in ("icr", "query", "share")]
    assert names(value) == [
        ("first-stage", None),
        *twice(("all", "icr"), *static, *CONTROLS, ("left-out", "pool")),
    ]
    assert (value["collection"], value["queries"], value["window"], value["recall"]) == ("tiny", 3, 6, 1.0)
    report = report_from_json(value, "report.json")
    assert report.provenance.head_set == "smollm2-135m.late.json"
    assert report.provenance.router == f"r.onnx {router.digest[:12]}"
    assert report.provenance.left_out == f"left.onnx {known.digest[:12]}"
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()
    for row in report.systems:
        plain = row.name.removesuffix("+first-stage")
        assert (row.seconds_per_query is not None) == (plain in ("all", "static", "routed"))
    # What is measured is what a search would do, documents without text included.
    reader = reranker.reader
    for mode, routes in (
        ("routed", Routes(reader, "routed", {}, router)),
        ("static", Routes(reader, "static", {"static": router.static_route()})),
    ):
        own = Reranker(reader, routes, fields=("title", "text"))
        run = read_run(tmp_path / "runs" / f"{mode}+first-stage.trec")
        for query, (text, _) in QUERIES.items():
            found = read_run(collection / "first.trec")[query]
            hits = [Hit(e.id, e.score, {"title": "", "text": DOCUMENTS[e.id]}) for e in found]
            assert [entry.id for entry in run[query]] == [hit.id for hit in own.rerank(text, hits).hits]


@pytest.mark.slow
def test_an_embedding_model_beside_the_llm_is_told(collection: Path, cache: Path, tmp_path: Path) -> None:
    tiny = save_embedder(tmp_path / "tiny")
    own = embedder_router(tmp_path / "own", tiny)
    arguments = ("evaluate", collection, "--run", "first.trec", "--window", "6", "--layers", "16", "--timed", "0")

    def told(*more: str | Path) -> tuple[Any, str]:
        given = ["--json", "--set", f"cache.path={cache}", "--set", f"router.embedder={tiny}", *arguments, *more]
        result = CliRunner().invoke(cli, list(map(str, given)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["provenance"]["router_embedder"], " ".join(result.stderr.split())

    embedder, progress = told("--bundle", own)
    assert embedder == f"bge-small-en-v1.5 {Embedder.load(str(tiny)).digest[:12]}"
    assert "counts nothing" not in progress
    embedder, progress = told()
    assert embedder is None and f"router.embedder is {tiny}, which the router smollm2-135m.solo.onnx" in progress


@pytest.mark.slow
def test_joint_has_the_published_systems_in_both_orders(
    collection: Path, cache: Path, models: LoadedModels, reranker: Reranker, tmp_path: Path
) -> None:
    evaluate = ("evaluate", collection, "--layout", "joint", "--window", "4", "--timed", "0", "--limit", "2")
    plain = measured(models, cache, *evaluate)
    assert names(plain) == [("first-stage", None), *twice(("all", "icr"))]
    own = heads_router(
        tmp_path / "r.onnx", plain["provenance"]["fingerprint"], reranker.reader.template_hash, "joint"
    )
    shuffled = measured(models, cache, *evaluate, "--bundle", own.path, "--shuffle")
    assert names(shuffled) == [("first-stage", None), *twice(("all", "icr"), *CONTROLS)]
    assert shuffled["provenance"]["shuffled"] is True and plain["provenance"]["shuffled"] is False
    # The first stage is the first stage, whatever the LLM saw.
    assert shuffled["rows"][0] == plain["rows"][0] and shuffled["recall"] == plain["recall"]


def test_a_cut_saves_what_needs_all_layers(
    collection: Path, cache: Path, models: LoadedModels, reranker: Reranker, tmp_path: Path
) -> None:
    router = heads_router(tmp_path / "r.onnx", reranker.reader.fingerprint, reranker.reader.template_hash)
    evaluate = ("evaluate", collection, "--window", "3", "--timed", "0", "--bundle", router.path)
    value = measured(models, cache, *evaluate, "--layers", "19")
    assert ("all", "icr") not in names(value) and ("routed", "pool") in names(value)
    assert value["provenance"]["layers"] == 19
    with pytest.raises(SettingsError, match=r"--layers 18: r.onnx reads layer 18; give at least 19"):
        invoke(models, cache, *evaluate, "--layers", "18")


def test_the_terminal_shows_a_verdict_and_its_rows_where_asked(
    collection: Path, cache: Path, models: LoadedModels, reranker: Reranker, tmp_path: Path
) -> None:
    reader = reranker.reader
    sources = [{"source": "tiny:test", "used": 3}]
    router = heads_router(tmp_path / "r.onnx", reader.fingerprint, reader.template_hash, sources=sources)

    def terminal(*more: str) -> Result:
        arguments = ["evaluate", str(collection), "--window", "3", "--timed", "0", "--layers", "19"]
        given = ["--set", f"cache.path={cache}", *LAYOUT, *arguments, "--bundle", str(router.path), *more]
        result = CliRunner().invoke(cli, given, obj=Context(models=models), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    plain = terminal("--report", str(tmp_path / "pages" / "report.html"))
    lines = plain.stdout.splitlines()
    assert len(lines) == 3 and " the first stage" in lines[0] and "95 % interval" in lines[0]
    assert lines[1].startswith("Of 3 queries ") and lines[2].startswith("Set: nothing. 3 queries cannot tell")
    assert "r.onnx was trained on tiny:test, the queries it is measured on" in plain.stderr
    page = (tmp_path / "pages" / "report.html").read_text()
    assert page.index(lines[0]) < page.index(lines[1]) < page.index(lines[2])
    # Each row with its settings, and hits with their first words.
    assert (
        f"<code>router.bundle={router.path}</code>, <code>rerank.window=3</code>" in page
        and "backbone.layout=late" in page
    )
    assert "Adult cats sleep between" in page or "0 queries won" in page
    every = terminal("--all-rows")
    assert every.stdout.splitlines()[:3] == lines
    assert "routed+first-stage (pool)" in every.stdout and "to permuted" in every.stdout


def test_without_a_row_that_a_setting_gives_there_are_rows_alone(
    collection: Path, cache: Path, models: LoadedModels, reranker: Reranker, tmp_path: Path
) -> None:
    # The first layer has no head of the shipped sets.
    arguments = ["evaluate", str(collection), "--window", "3", "--timed", "0", "--layers", "1", "--layout", "late"]
    given = ["--set", f"cache.path={cache}", "--set", f"router.bundle={shipped_path('smollm2-135m', 'late')}"]
    plain = CliRunner().invoke(cli, [*given, *arguments], obj=Context(models=models), catch_exceptions=False)
    assert plain.exit_code == 0 and "first-stage" in plain.stdout and "95 % interval" not in plain.stdout
    with pytest.raises(DataError, match="no row stands for a setting; leave out --layers"):
        invoke(models, cache, *given, *arguments, "--report", tmp_path / "report.html")


def test_heads_of_another_layout_are_refused(collection: Path, cache: Path, models: LoadedModels) -> None:
    shipped = shipped_path("smollm2-135m", "late")
    with pytest.raises(BackboneError, match="run: rh-connector train --static"):
        invoke(models, cache, "--set", f"router.bundle={shipped}", "evaluate", collection, "--layout", "joint")


def test_an_embedding_model_is_a_peer_and_part_of_a_first_stage(
    models: LoadedModels, cache: Path, collection: Path, tmp_path: Path
) -> None:
    folder = str(save_embedder(tmp_path / "tiny"))
    arguments = ("evaluate", collection, "--run", "first.trec", "--timed", "0", "--embedder", folder)
    plain, both = measured(models, cache, *arguments), measured(models, cache, *arguments, "--hybrid")
    assert [row["name"] for row in plain["rows"]][:3] == ["first-stage", "tiny", "tiny+first-stage"]
    assert plain["provenance"]["embedder"].startswith("tiny ") and plain["provenance"]["first_stage"] == "first.trec"
    assert both["provenance"]["first_stage"] == "first.trec and tiny"
    rows = {row["name"]: row["nDCG@10"] for row in plain["rows"]}
    hybrid_rows = {row["name"]: row["nDCG@10"] for row in both["rows"]}
    # What stood beside the first stage is the first stage now.
    assert hybrid_rows["first-stage"] == rows["tiny+first-stage"] and hybrid_rows["tiny"] == rows["tiny"]
    with pytest.raises(SettingsError, match="hybrid without embedder"):
        invoke(models, cache, "evaluate", collection, "--hybrid")


def test_the_first_stage_is_what_the_engine_finds_by_words_and_vectors(
    models: LoadedModels, cache: Path, collection: Path, tmp_path: Path
) -> None:
    setting = ("--set", f"engine.embedder={save_embedder(tmp_path / 'tiny')}")
    arguments = ("evaluate", collection, "--timed", "0", "--runs", tmp_path)
    found = measured(models, cache, *setting, *arguments)
    assert found["provenance"]["first_stage"] == "embedded BM25 and vectors of tiny"
    run = (tmp_path / "first-stage.trec").read_text()
    # The river shares no word with it: "cats" alone is known to the model.
    assert {line.split()[2] for line in run.splitlines() if line.startswith("q1 ")} == set(DOCUMENTS)
    found = measured(models, cache, *arguments)
    assert found["provenance"]["first_stage"] == "embedded BM25"
    run = (tmp_path / "first-stage.trec").read_text()
    assert {line.split()[2] for line in run.splitlines() if line.startswith("q2 ")} < set(DOCUMENTS)


def test_pairs_and_clicks_over_an_index_of_one_s_own(
    models: LoadedModels, cache: Path, tmp_path: Path, reranker: Reranker
) -> None:
    router = heads_router(tmp_path / "r.onnx", reranker.reader.fingerprint, reranker.reader.template_hash)
    index = ("--set", f"engine.url={tmp_path / 'index'}", "--set", "engine.fields=body", "--bundle", router.path)
    settings = load_settings("/dev/null", {"engine.url": str(tmp_path / "index"), "engine.fields": "body"})
    with open_engine(settings) as engine:
        engine.index(Document(key, {"body": text, "noise": "day"}) for key, text in DOCUMENTS.items())
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,document\n" + "".join(f"{text},{right}\n" for text, right in QUERIES.values()))
    arguments = ("--timed", "0", "--layers", "19", "--window", "4")
    found = measured(
        models, cache, *index[:4], "evaluate", pairs, *arguments, *index[4:], "--runs", tmp_path / "runs"
    )
    assert (found["collection"], found["queries"], found["provenance"]["qrels"]) == ("pairs", 3, "pairs.csv")
    rows = {(row["name"], row["readout"]): row["nDCG@10"] for row in found["rows"]}
    assert rows["first-stage", None] > 0.5
    # What is measured is what a search would do: the same fields are read.
    own = Reranker(reranker.reader, Routes(reranker.reader, "routed", {}, router), fields=("body",))
    run = read_run(tmp_path / "runs" / "routed+first-stage.trec")
    with open_engine(settings) as engine:
        for at, (text, _) in enumerate(QUERIES.values(), 1):
            hits = engine.search(text, 4)
            assert [entry.id for entry in run[f"q{at}"]] == [
                hits[hit.index].id for hit in own.rerank(text, hits).hits
            ]
    log = tmp_path / "clicks.jsonl"
    shown = ["river", "cats", "bread"]
    log.write_text(json.dumps({"query": QUERIES["q1"][0], "shown": shown, "clicked": "cats"}))
    result = invoke(models, cache, *index[:4], "evaluate", log, *arguments, *index[4:])
    assert "clicks favour what was shown on top" in result.stderr
    value = json.loads(result.stdout)
    assert value["provenance"]["first_stage"] == "what was shown"
    assert value["rows"][0]["MRR@10"] == 0.5
    with pytest.raises(DataError, match=r"there is no .*gone.csv; give a folder"):
        invoke(models, cache, "evaluate", tmp_path / "gone.csv")
    for option in (("--split", "dev"), ("--qrels", "q.tsv"), ("--relevant-from", "2")):
        with pytest.raises(SettingsError, match=f"takes no {' '.join(option)}; leave it out"):
            invoke(models, cache, "evaluate", log, *option)
