"""From a collection to a router, its export, and a report with controls: the real LLM on a tiny collection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import BackboneError, DataError, RhConnectorError, SettingsError
from connector.evaluation.report import report_from_json
from connector.routing.bundle import Bundle
from connector.training.router import Router

ANIMALS = ("cat", "dog", "horse", "whale", "owl", "frog", "bear", "mouse", "snake", "eagle")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten documents with titles, ten judged train queries, three test queries."""
    folder = tmp_path_factory.mktemp("data") / "animals"
    folder.mkdir()
    documents, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for at, animal in enumerate(ANIMALS):
        text = f"The {animal} rests {at + 2} hours a day. It lives in the wild. A young {animal} rests longer still."
        documents.append({"_id": f"d{at}", "title": f"How the {animal} lives and rests", "text": text})
        queries.append({"_id": f"q{at}", "text": f"how many hours does a {animal} rest"})
        qrels.append(f"q{at}\td{at}\t1")
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    for suffix, count in (("", 3), ("_train", 10)):
        (folder / f"queries{suffix}.jsonl").write_text("\n".join(map(json.dumps, queries[:count])))
        (folder / f"qrels{suffix}.tsv").write_text("\n".join(qrels[: count + 1]) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of its own, with the real model in it."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").mkdir()
    (folder / "models" / "smollm2-135m").symlink_to(smollm2.path)
    return folder


def run(cache: Path, *arguments: str, ok: bool = True, layout: str = "late") -> Any:
    given = ["--json", "--set", f"cache.path={cache}", "--set", f"backbone.layout={layout}", *arguments]
    result = CliRunner().invoke(cli, given, catch_exceptions=not ok)
    if ok:
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)
    assert isinstance(result.exception, RhConnectorError), result.exception
    raise result.exception


def engine_of(collection: Path, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The collection in an embedded index: options that name it, and options of its judged train queries."""
    engine = ("--set", "engine.index=animals", "--set", f"engine.url={folder / 'indexes'}")
    indexed = CliRunner().invoke(cli, [*engine, "index", str(collection)], catch_exceptions=False)
    assert indexed.exit_code == 0, indexed.output
    queries, qrels = (str(collection / name) for name in ("queries_train.jsonl", "qrels_train.tsv"))
    return engine, ("--queries-file", queries, "--qrels", qrels)


TRAIN = ("--window", "5", "--layers", "4", "--pool", "6", "--most-heads", "3")


@pytest.fixture(scope="module")
def trained(collection: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "animals.onnx"
    answer = run(cache, "train", f"{collection}:train", f"{collection}:made:8", *TRAIN, "--out", str(out))
    assert answer["file"] == str(out) and answer["kappa"] == 0 and answer["bytes"] < 2_000_000
    return out


@pytest.mark.slow
def test_a_router_is_trained_exported_and_says_how(trained: Path, collection: Path) -> None:
    told = Bundle.load(trained).metadata
    assert told.training["queries"]["animals"] == 10  # type: ignore[call-overload,index]
    assert set(told.training["queries"]) == {"animals", "animals:made"}  # type: ignore[arg-type]
    assert len(told.pool) == 6 and told.most_heads == 3 and told.deepest_layer < 4
    assert str(collection.parent) not in told.to_json()
    router, metadata = Router.load(trained.with_suffix(".safetensors"))
    assert metadata == told and len(router.samples) > 0


@pytest.mark.slow
def test_shards_and_their_merge_train_the_same(
    collection: Path, cache: Path, trained: Path, smollm2: Checkpoint, tmp_path: Path
) -> None:
    source = (f"{collection}:train", f"{collection}:made:8")
    for number in (1, 2):
        other = tmp_path / f"cache{number}"
        (other / "models").mkdir(parents=True)
        (other / "models" / "smollm2-135m").symlink_to(smollm2.path)
        answer = run(other, "train", *source, *TRAIN, "--shard", f"{number}/2")
        assert 0 < answer["queries"] < 18
    merged = tmp_path / "cache3"
    (merged / "models").mkdir(parents=True)
    (merged / "models" / "smollm2-135m").symlink_to(smollm2.path)
    parts = [part for number in (1, 2) for part in ("--merge", str(tmp_path / f"cache{number}" / "statistics"))]
    out = tmp_path / "merged.onnx"
    run(merged, "train", *source, *TRAIN, *parts, "--out", str(out))
    one, other_metadata = Bundle.load(trained).metadata, Bundle.load(out).metadata
    assert (
        one.pool == other_metadata.pool and one.static == other_metadata.static and one.gains == other_metadata.gains
    )


def test_an_exported_router_is_the_same_file(cache: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.onnx"
    answer = run(cache, "export", str(trained.with_suffix(".safetensors")), "--out", str(out))
    assert answer["largest_difference"] <= 1e-5 and answer["random"] == 256
    assert out.read_bytes() == trained.read_bytes()
    shown = run(cache, "export", "--inspect", str(out))
    assert shown["format"] == "rh-router-2" and shown["kappa"] == 0
    plain = CliRunner().invoke(cli, ["export", "--inspect", str(out)], catch_exceptions=False)
    assert "smollm2-135m, layout late" in plain.output and "static" in plain.output


@pytest.mark.slow
def test_what_is_wrong_is_told(cache: Path, collection: Path, trained: Path, tmp_path: Path) -> None:
    for arguments, error, says in (
        (("train",), SettingsError, "give a SOURCE"),
        (("train", f"{collection}:train", "--shard", "3/2"), SettingsError, "--shard 3/2"),
        (("train", f"{collection}:train", "--static", "--shard", "1/2"), SettingsError, "--static and --shard 1/2"),
        (("train", f"{collection}:train", "--readouts", "sum"), SettingsError, "--readouts sum"),
        (("train", f"{collection}:train", "--out", "x.json"), SettingsError, "ends in .onnx"),
        (("train", "engine:train"), SettingsError, "engine:made"),
        (("train", f"{collection}:dev"), DataError, "no judgments for the split dev"),
        (("train", f"{collection}:train", "--queries-file", "q.jsonl"), SettingsError, "go together"),
        (("train", f"{collection}:train", *TRAIN, "--leave-out", "animals"), DataError, "no train query is left"),
        (("train", f"{collection}:train", *TRAIN, "--merge", str(tmp_path)), DataError, "holds no head scores"),
        (("export",), SettingsError, "give ROUTER"),
        (("export", str(tmp_path / "no.safetensors")), BackboneError, "cannot read"),
        (("export", str(trained)), BackboneError, "animals.onnx"),
        (("export", "--inspect", str(trained.with_suffix(".safetensors"))), BackboneError, "safetensors"),
        (("export", str(trained.with_suffix(".safetensors")), "--out", "x.bin"), SettingsError, "ends in .onnx"),
    ):
        with pytest.raises(error, match=says):
            run(cache, *arguments, ok=False)


@pytest.mark.slow
def test_queries_over_the_engine_and_made_of_its_documents(cache: Path, collection: Path, tmp_path: Path) -> None:
    engine, files = engine_of(collection, tmp_path)
    out = tmp_path / "engine.onnx"
    run(cache, *engine, "train", "engine:made:6", *files, *TRAIN, "--out", str(out))
    queries = Bundle.load(out).metadata.training["queries"]
    assert queries["animals"] == 10 and queries["animals:made"] > 0  # type: ignore[call-overload,index,operator]


@pytest.mark.slow
def test_a_report_with_controls(cache: Path, collection: Path, trained: Path, tmp_path: Path) -> None:
    left_out = tmp_path / "left-out.onnx"
    shutil.copy(trained, left_out)
    arguments = [
        *("evaluate", str(collection), "--window", "5", "--timed", "1", "--bundle", str(trained)),
        *("--left-out", str(left_out), "--per-query", str(tmp_path / "values.tsv"), "--runs", str(tmp_path / "runs")),
    ]
    value = run(cache, *arguments)
    report = report_from_json(value, "answer")
    names = [row.name for row in report.systems if row.readout == "pool"]
    plain = ["random", "static", "routed", "permuted", "left-out"]
    assert names == [name + suffix for name in plain for suffix in ("", "+first-stage")]
    rows = {(row.name, row.readout): row for row in report.systems}
    # kappa is 0: the router is its static set, whatever embedding it is given.
    for suffix in ("", "+first-stage"):
        own = [rows[f"{name}{suffix}", "pool"].per_query for name in ("static", "routed", "permuted", "left-out")]
        assert own[0] == own[1] == own[2] == own[3]
    routed = rows["routed", "pool"]
    assert set(routed.against) == {"static", "permuted"} and routed.route["heads"] <= 3
    assert routed.against["static"].difference == 0 and routed.seconds_per_query is not None
    assert report.recall is not None and 0 < report.recall <= 1
    assert report.provenance.router is not None and report.provenance.router.startswith("animals.onnx")
    lines = (tmp_path / "values.tsv").read_text().splitlines()
    assert len(lines) == 1 + 3 * len(report.systems)
    assert {"first-stage.trec", "routed.trec", "permuted+first-stage.trec"} <= {
        file.name for file in (tmp_path / "runs").iterdir()
    }
    again = run(cache, *arguments[:6], "--bundle", str(trained), "--shuffle", "--timed", "0")
    # In the layout late the order in which the LLM sees documents changes nothing.
    shuffled = {(row["name"], row["readout"]): row["nDCG@10"] for row in again["rows"]}
    assert shuffled["routed", "pool"] == value["rows"][[*rows].index(("routed", "pool"))]["nDCG@10"]
    assert again["provenance"]["shuffled"] is True
