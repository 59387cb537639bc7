"""A cascade measured with the real small LLM twice, the second time with a router that says the opposite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from click.testing import CliRunner

from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.cli.context import Context
from connector.errors import BackboneError, SettingsError
from connector.evaluation.answering.evaluation import Evaluation
from connector.evaluation.evaluate import EvaluateOptions, evaluate
from connector.evaluation.progress import Progress, Quiet
from connector.evaluation.report import report_from_json, report_to_json
from connector.heads.fusion import fusion_of
from connector.heads.needs import Needs
from connector.reranking.cascade import Cascade
from connector.reranking.reranker import Reranker
from connector.reranking.second_settings import second_settings
from connector.routing.bundle import Bundle
from connector.routing.selection import Routes
from connector.sections import Settings
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.evaluation.folders import DOCUMENTS, write_collection, write_jsonl
from tests.loaded_models import LoadedModels
from tests.reranking.router_file import router_file

T = TypeVar("T")
MODEL = "smollm2-135m"
ORDER = ["more0", "rust", "empty", "bread", "whiskers", "more1", "cats", "more2"]
ROWS = ["cascade", "cascade+first-stage"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two judged queries of eight hits, one of them without text; of a third one no hit has any."""
    folder = write_collection(tmp_path_factory.mktemp("data") / "small")
    more = [{"_id": f"more{at}", "title": "", "text": f"Cat number {at} sleeps."} for at in range(3)]
    write_jsonl(folder / "corpus.jsonl", [*DOCUMENTS, *more, {"_id": "empty", "title": "", "text": " "}])
    with (folder / "qrels.tsv").open("a") as qrels:
        qrels.write("q3\tempty\t1\n")
    run = [f"{query} Q0 {own} {at} {9 - at}.0 x\n" for query in ("q1", "q2") for at, own in enumerate(ORDER)]
    (folder / "first.trec").write_text("".join([*run, "q3 Q0 empty 1 1.0 x\n"]))
    return folder


@pytest.fixture(scope="module")
def opposite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return router_file(tmp_path_factory.mktemp("router") / "opposite.onnx")


def settings_of(cache: Path, opposite: Path | None, **more: Any) -> Settings:
    given = {key.replace("__", "."): value for key, value in more.items()}
    if opposite is not None:
        given = {"cascade.model": MODEL, "cascade.bundle": str(opposite), "cascade.hits": 3, **given}
    return load_settings("/dev/null", {"cache.path": str(cache), "rerank.window": 8, **given}, environment={})


class Heard(Quiet):
    """Writes down what is counted, and how far."""

    def __init__(self) -> None:
        self.counted: dict[str, list[int]] = {}

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        for at, item in enumerate(items, 1):
            self.counted[label] = [at, total]
            yield item


def run(
    folder: Path, settings: Settings, reranker: Reranker, progress: Progress | None = None, **options: Any
) -> Evaluation:
    given = EvaluateOptions(run="first.trec", **{"timed": 0, **options})
    second = None if settings.cascade.model is None else reranker.reader
    return evaluate(folder, settings, given, reader=reranker.reader, second=second, progress=progress)


def searched(measured: Evaluation, settings: Settings, reader: Reader, fusion: str | float, order: bool) -> Any:
    """What a search gives of the same hits."""
    own = second_settings(settings)
    assert own is not None
    second = Cascade(reader, Routes.from_settings(own, reader), MODEL, settings.cascade.hits)
    routes = Routes.from_settings(settings, reader)
    reranker = Reranker(reader, routes, fusion=fusion, fields=("title", "text"), cascade=second)
    found = {}
    for query, hits in measured.windows.items():
        result = reranker.rerank(measured.collection.queries[query], hits, first_stage="order" if order else None)
        found[query] = [hits[hit.index].id for hit in result.hits]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ({}, {}),
        ({"cascade__hits": 1}, {}),
        ({"cascade__hits": 20}, {"shuffle": True}),
        ({"rerank__fusion": 1.5}, {}),
        ({"rerank__fusion": "none"}, {"by_rank": True}),
        ({"rerank__fusion": 2.5, "cascade__hits": 2}, {"by_rank": True}),
        ({}, {"hybrid": True}),
    ],
)
def test_rankings_are_those_of_a_search(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path, setting: Any, options: Any
) -> None:
    if options.get("hybrid"):
        options = {**options, "embedder": (str(save_embedder(tmp_path / "tiny")),)}
    settings = settings_of(tmp_path, opposite, **setting)
    measured = run(folder, settings, reranker, **options)
    rows = {each.system.name: each for each in measured.ranked}
    assert list(rows)[-2:] == ROWS and all(rows[name].system.readout == "pool" for name in ROWS)
    weight = fusion_of(settings, hybrid=options.get("hybrid", False))
    for name, fusion in zip(ROWS, ("none", "auto" if weight == "none" else weight), strict=True):
        expected = searched(measured, settings, reranker.reader, fusion, options.get("by_rank", False))
        assert rows[name].rankings == expected
        assert rows[name].rankings["q3"] == ["empty"]
        assert not rows[name].by_window
    # Of a single hit the second model says nothing of the others' order: all move with it.
    same = rows["cascade"].rankings["q1"] == rows["routed"].rankings["q1"]
    assert same == (settings.cascade.hits == 1)


@pytest.mark.slow
def test_probabilities_comparisons_and_origin_are_told(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path
) -> None:
    heard = Heard()
    measured = run(folder, settings_of(tmp_path, opposite, cascade__budget_ms=40), reranker, heard, timed=1)
    assert heard.counted == {"signals, small": [2, 3], f"signals of {MODEL}, small": [2, 2]}
    rows = {system.name: system for system in measured.report.systems}
    for name in ROWS:
        own, routed = rows[name], rows[name.replace("cascade", "routed")]
        assert sum(each.hits for each in own.reliability) == 16 and own.reliability != routed.reliability
        difference = own.measures["nDCG@10"] - routed.measures["nDCG@10"]
        assert own.against["routed"].difference == pytest.approx(difference)
        assert own.seconds_per_query is not None and own.seconds_cached is not None
        assert own.seconds_per_query == rows["cascade"].seconds_per_query
    assert rows["routed"].seconds_per_query != rows["cascade"].seconds_per_query
    made = measured.report.provenance
    digest = Bundle.load(opposite).digest[:12]
    assert (made.second_model, made.second_router, made.second_hits) == (MODEL, f"opposite.onnx {digest}", 3)
    assert made.readers == f"{MODEL} and, of its first 3, {MODEL}"
    value = report_to_json(measured.report)
    again = report_from_json(json.loads(json.dumps(value)), "report.json")
    assert report_to_json(again) == value and again.systems[-1].against.keys() == {"routed"}
    assert measured.notes == (
        f"cascade.budget_ms = 40 is not measured: here {MODEL} reads all of the first 3 hits, however long it takes",
    )
    verdict = measured.verdict()
    assert verdict is not None and verdict.system.name == "cascade+first-stage"
    assert verdict.lines[2].endswith(" Not measured: cascade.budget_ms=40.")
    measured.write_page(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"reranked by {MODEL} and, of its first 3, {MODEL}." in page
    assert "which hits the second LLM reads depends on it" in page and "<code>cascade.model=</code>" in page


@pytest.mark.slow
def test_the_second_model_reads_its_hits_once(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each query those that either row has it read; and nothing of what an earlier run has read."""
    read = Reader.read
    seen: list[tuple[str, int]] = []

    def counted(self: Reader, query: str, texts: Sequence[str], needs: Needs, **options: Any) -> Reading:
        # The likelihood is a row of the first LLM's alone.
        if not needs.likelihood:
            seen.append((query, len(texts)))
        return read(self, query, texts, needs, **options)

    monkeypatch.setattr(Reader, "read", counted)
    first = run(folder, settings_of(tmp_path, opposite, cascade__hits=2), reranker)
    assert [query for query, _ in seen] == [first.collection.queries[query] for query in ("q1", "q2")]
    assert all(2 <= number <= 4 for _, number in seen)
    longer = run(folder, settings_of(tmp_path, opposite, cascade__hits=4), reranker)
    before, seen[:] = seen.copy(), []

    def forbidden(*_: Any, **__: Any) -> Reading:
        raise AssertionError("it was read before")

    monkeypatch.setattr(Reader, "read", forbidden)
    again = run(folder, settings_of(tmp_path, opposite, cascade__hits=4), reranker)
    assert len(before) == 4 and not seen
    assert [each.rankings for each in again.ranked] == [each.rankings for each in longer.ranked]
    assert [each.values for each in again.ranked] == [each.values for each in longer.ranked]


@pytest.mark.slow
def test_without_a_second_model_there_is_nothing_of_it(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path
) -> None:
    plain = run(folder, settings_of(tmp_path, None), reranker)
    both = run(folder, settings_of(tmp_path, opposite), reranker)
    assert [each.rankings for each in both.ranked[:-2]] == [each.rankings for each in plain.ranked]
    assert [each.system.name for each in plain.ranked][-1] == "routed+first-stage"
    made = plain.report.provenance
    assert (made.second_model, made.second_router, made.second_hits) == (None, None, None)
    verdict = plain.verdict()
    assert verdict is not None and verdict.system.name == "routed+first-stage"


def test_two_models_share_probabilities_only(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, opposite, backbone__layout="late")
    with pytest.raises(SettingsError, match=r"backbone\.layout = late.*set backbone\.layout to solo"):
        run(folder, settings, reranker)
    plain = router_file(tmp_path / "plain.onnx", absolute=None)
    with pytest.raises(BackboneError, match=r"cascade\.model = .*set cascade\.bundle"):
        run(folder, settings_of(tmp_path, plain), reranker)
    with pytest.raises(BackboneError, match=r"backbone\.model = .*set router\.bundle"):
        run(folder, settings_of(tmp_path, opposite), reranker, bundle=plain)


def test_numbers_that_are_none_are_refused(
    folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reader.read

    def spoilt(self: Reader, query: str, texts: Sequence[str], needs: Needs, **options: Any) -> Reading:
        reading = read(self, query, texts, needs, **options)
        return reading if needs.likelihood else replace(reading, states=np.full_like(reading.states, np.nan))

    monkeypatch.setattr(Reader, "read", spoilt)
    with pytest.raises(BackboneError, match=f"a head score of {MODEL} is not finite"):
        run(folder, settings_of(tmp_path, opposite), reranker, limit=1)


@pytest.mark.slow
def test_the_second_model_is_loaded_where_none_is_handed_in(
    folder: Path, opposite: Path, reranker: Reranker, smollm2: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / MODEL).symlink_to(smollm2.path)
    same = {"backbone__dtype": "float32", "backbone__runtime": "torch", "backbone__offline": True}
    settings = settings_of(tmp_path, opposite, **same)
    given = EvaluateOptions(run="first.trec", timed=0)
    found = evaluate(folder, settings, given, reader=reranker.reader)
    expected = run(folder, settings, reranker)
    assert [each.rankings for each in found.ranked] == [each.rankings for each in expected.ranked]


class Asked(LoadedModels):
    """Writes down which models' LLMs are asked for."""

    def __init__(self, reranker: Reranker) -> None:
        super().__init__(reranker)
        self.bundles: list[Path | None] = []

    def reader(self, settings: Settings, progress: Any = None) -> Reader:
        self.bundles.append(settings.router.bundle)
        return super().reader(settings, progress)


@pytest.mark.slow
def test_the_command_measures_a_cascade(folder: Path, opposite: Path, reranker: Reranker, tmp_path: Path) -> None:
    models = Asked(reranker)
    options = {"cache.path": tmp_path, "cascade.model": MODEL, "cascade.bundle": opposite, "cascade.budget_ms": 9}
    given = [text for key, value in options.items() for text in ("--set", f"{key}={value}")]
    arguments = [*given, "evaluate", str(folder), "--run", "first.trec", "--timed", "0", "--all-rows"]
    result = CliRunner().invoke(cli, arguments, obj=Context(models=models), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert models.bundles == [None, opposite]
    assert "cascade.budget_ms = 9 is not measured" in result.stderr
    assert "cascade+first-stage (pool)" in result.stdout and "to routed" in result.stdout
    assert "to permuted" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines()[3:])
    result = CliRunner().invoke(cli, ["--json", *arguments], obj=Context(models=models), catch_exceptions=False)
    assert [row["name"] for row in json.loads(result.stdout)["rows"]][-2:] == ROWS
