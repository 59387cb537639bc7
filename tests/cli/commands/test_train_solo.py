"""Training and evaluating in the default layout, ``solo``: the real LLM on a tiny collection."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import DataError, EngineError, SettingsError
from connector.evaluation.report import report_from_json
from connector.routing.bundle import Bundle
from tests.cli.commands.test_train_router import cache, collection, engine_of, run

__all__ = ["cache", "collection"]

WINDOW = ("--window", "5")


@pytest.fixture(scope="module")
def trained(collection: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "animals.onnx"
    answer = run(cache, "train", f"{collection}:train", *WINDOW, "--out", str(out), layout="solo")
    assert answer["file"] == str(out) and answer["bytes"] < 200_000
    return out


@pytest.mark.slow
def test_a_probe_is_trained_and_says_how(trained: Path, collection: Path) -> None:
    told = Bundle.load(trained).metadata
    assert told.training["queries"] == {"animals": 10} and told.layout == "solo"
    assert [own.layers for own in told.probes] == [(12, 16)] and told.deepest_layer == 15
    assert told.absolute is not None and told.shown == ((2, 4), (8, 0), (15, 6))
    assert str(collection.parent) not in told.to_json()
    plain = CliRunner().invoke(cli, ["export", "--inspect", str(trained)], catch_exceptions=False)
    assert "smollm2-135m, layout solo" in plain.output and "probe" in plain.output


@pytest.mark.slow
def test_cost_losses_and_the_cross_validated_gain_are_told(
    trained: Path, collection: Path, cache: Path, smollm2: Checkpoint, tmp_path: Path
) -> None:
    fresh = tmp_path / "cache"
    (fresh / "models").mkdir(parents=True)
    (fresh / "models" / "smollm2-135m").symlink_to(smollm2.path)

    def told(own: Path) -> tuple[str, str]:
        given = ["--set", f"cache.path={own}", "--set", "backbone.layout=solo", "train", f"{collection}:train"]
        result = CliRunner().invoke(
            cli, [*given, *WINDOW, "--out", str(tmp_path / "told.onnx")], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.stdout, " ".join(result.stderr.split())

    output, progress = told(fresh)
    assert "animals:train: 10 queries, 10 to learn from" in progress
    assert "10 train queries; 50 documents are to be read: about " in progress
    assert " s, as measured here, and 0.1 MB of disk in " in progress
    assert "Warning: 10 queries are little to learn from" in progress
    assert "Cross-validated, on 10 train queries that were held out: " in output and "95 % interval" in output
    gain = Bundle.load(tmp_path / "told.onnx").metadata.gains["gain"]
    assert gain["queries"] == 10 and gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
    assert gain == Bundle.load(trained).metadata.gains["gain"]
    _, again = told(fresh)
    assert "10 train queries; what the LLM shows of all is on disk." in again


@pytest.mark.slow
def test_five_queries_are_refused(collection: Path, cache: Path, tmp_path: Path) -> None:
    five = (f"{collection}:train:5", *WINDOW, "--out", str(tmp_path / "five.onnx"))
    with pytest.raises(DataError, match="train: 5 windows .* --force"):
        run(cache, "train", *five, ok=False, layout="solo")
    assert not (tmp_path / "five.onnx").exists()
    assert run(cache, "train", *five, "--force", layout="solo")["file"] == str(tmp_path / "five.onnx")


def test_an_index_that_is_not_there_is_named_with_those_that_are(
    collection: Path, cache: Path, tmp_path: Path
) -> None:
    engine, _ = engine_of(collection, tmp_path)
    other = (*engine, "--set", "engine.index=nope")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,document\nhow long do cats rest,d0\n")
    for arguments in (("train", "engine:made"), ("evaluate", str(pairs))):
        with pytest.raises(EngineError, match="; there is: animals$"):
            run(cache, *other, *arguments, ok=False, layout="solo")


@pytest.mark.slow
def test_shards_and_their_merge_train_the_same(
    collection: Path, cache: Path, trained: Path, smollm2: Checkpoint, tmp_path: Path
) -> None:
    caches = []
    for name in ("one", "two", "merged"):
        caches.append(tmp_path / name)
        (caches[-1] / "models").mkdir(parents=True)
        (caches[-1] / "models" / "smollm2-135m").symlink_to(smollm2.path)
    source = ("train", f"{collection}:train", *WINDOW)
    for at, own in enumerate(caches[:2], 1):
        assert run(own, *source, "--shard", f"{at}/2", layout="solo")["queries"] == 5
    parts = [part for own in caches[:2] for part in ("--merge", str(own / "statistics"))]
    out = tmp_path / "merged.onnx"
    run(caches[2], *source, *parts, "--out", str(out), layout="solo")
    one, other = Bundle.load(trained).metadata, Bundle.load(out).metadata
    assert one.gains == other.gains and one.absolute == other.absolute


@pytest.mark.slow
def test_fewer_windows_are_read_whole_where_asked(cache: Path, collection: Path, tmp_path: Path) -> None:
    source = ("train", f"{collection}:train", *WINDOW)
    out = tmp_path / "few.onnx"
    run(cache, *source, "--whole-windows", "5", "--out", str(out), layout="solo")
    assert Bundle.load(out).metadata.gains["queries"] == 5
    with pytest.raises(SettingsError, match="--whole-windows: the layout late reads all windows whole"):
        run(cache, *source, "--whole-windows", "5", ok=False, layout="late")


@pytest.mark.slow
def test_a_report_of_it(cache: Path, collection: Path, trained: Path) -> None:
    arguments = ("evaluate", str(collection), *WINDOW, "--timed", "1", "--bundle", str(trained))
    report = report_from_json(run(cache, *arguments, layout="solo"), "answer")
    plain = [row.name for row in report.systems if not row.name.endswith("+first-stage")]
    assert plain[1:] == ["likelihood", "routed"]
    rows = {row.name: row for row in report.systems}
    assert sum(each.hits for each in rows["routed"].reliability) > 0
    assert rows["likelihood"].reliability == ()
    assert rows["routed"].seconds_per_query is not None
    # A likelihood needs all layers, the probe fewer.
    cut = report_from_json(run(cache, *arguments, "--layers", "16", layout="solo"), "answer")
    assert [row.name for row in cut.systems if row.name.startswith("likelihood")] == []
    assert {row.name: row.per_query for row in cut.systems}["routed"] == rows["routed"].per_query


@pytest.mark.slow
def test_queries_over_the_engine(cache: Path, collection: Path, tmp_path: Path) -> None:
    engine, files = engine_of(collection, tmp_path)
    out = tmp_path / "engine.onnx"
    run(cache, *engine, "train", *files, *WINDOW, "--out", str(out), layout="solo")
    assert Bundle.load(out).metadata.training["queries"] == {"animals": 10}


@pytest.mark.slow
def test_what_is_wrong_is_told(cache: Path, collection: Path, tmp_path: Path) -> None:
    source = f"{collection}:train"
    for arguments, error, says in (
        (("train",), SettingsError, "give a SOURCE"),
        (("train", source, "--pool", "6"), SettingsError, "--pool: the layout solo has no heads to pick"),
        (("train", source, "--mode", "paper"), SettingsError, "--mode paper: the layout solo"),
        (("train", source, "--quick", "--readouts", "icr"), SettingsError, "--readouts, --quick: the layout solo"),
        (("train", source, "--static"), SettingsError, "give --layout late"),
        (("train", source, "--leave-out", "animals"), DataError, "0 windows"),
        (("train", source, "--queries-file", "q.jsonl"), SettingsError, "go together"),
        (("train", source, "--merge", str(tmp_path)), DataError, "holds no head scores"),
    ):
        with pytest.raises(error, match=says):
            run(cache, *arguments, ok=False, layout="solo")
