"""Training from Python: with a loaded LLM, without a settings file; what is wrong is told before anything is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from connector.errors import DataError, SettingsError
from connector.evaluation.evaluate import EvaluateOptions, evaluate
from connector.heads.head_sets import StaticHeads
from connector.reranking.reranker import Reranker
from connector.routing.formats import built_in_scores
from connector.routing.selection import Routes
from connector.sections import Settings
from connector.training.sources import TrainSource
from connector.training.train import TrainOptions, find_static_heads, gather_shard, train

T = TypeVar("T")
ANIMALS = ("cat", "dog", "horse", "whale", "owl", "frog")
SMALL = TrainOptions(pool=6, most_heads=3, layers=4, force=True)


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


@pytest.fixture(scope="session")
def settings(late_settings: Settings) -> Settings:
    """Heads are read in the layout ``late``."""
    return late_settings


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tracked: dict[str, int] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        self.tracked[label] = total
        return iter(items)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "animals"
    folder.mkdir()
    documents = [
        {"_id": f"d{at}", "title": f"How the {animal} lives", "text": f"The {animal} rests {at + 2} hours a day."}
        for at, animal in enumerate(ANIMALS)
    ]
    queries = [{"_id": f"q{at}", "text": f"how long does a {animal} rest"} for at, animal in enumerate(ANIMALS)]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{at}\td{at}\t1" for at in range(len(ANIMALS)))]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries_train.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels_train.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.fixture
def own_settings(settings: Settings, tmp_path: Path) -> Settings:
    """The defaults, a window of five, and a cache folder of the test's own."""
    cache = settings.cache.model_copy(update={"path": tmp_path / "cache"})
    rerank = settings.rerank.model_copy(update={"window": 5})
    return settings.model_copy(update={"cache": cache, "rerank": rerank})


@pytest.mark.slow
def test_a_router_is_trained_written_and_taken(
    reranker: Reranker, own_settings: Settings, collection: Path, tmp_path: Path
) -> None:
    out, told = tmp_path / "animals.onnx", Told()
    result = train([f"{collection}:train"], out, own_settings, SMALL, reader=reranker.reader, progress=told)
    assert result.bundle.path == out and out.with_suffix(".safetensors").is_file()
    assert result.trained.metadata.training["command"] == "connector.train"
    stored = result.bundle.metadata.reference
    assert stored is not None
    # By these, another format of the model is known: they are the scores of the bundle as it was written.
    assert stored.difference(built_in_scores(reranker.reader, result.bundle.static_route())) < 1e-3
    assert told.tracked == {"head scores, animals:train": len(ANIMALS)}
    # The head scores are on disk now: nothing is read again, and the file is the same.
    again = train(
        [TrainSource(str(collection), "train")],
        tmp_path / "b.onnx",
        own_settings,
        SMALL,
        progress=told,
        reader=reranker.reader,
    )
    assert any("all are on disk" in line for line in told.lines)
    assert again.trained.metadata.pool == result.trained.metadata.pool
    taken = own_settings.model_copy(update={"router": own_settings.router.model_copy(update={"bundle": out})})
    assert Routes.from_settings(taken, reranker.reader).default == "routed"


def test_shards_make_up_all_queries(reranker: Reranker, own_settings: Settings, collection: Path) -> None:
    options = [TrainOptions(layers=4, shard=(part, 2), force=True) for part in range(2)]
    parts = [gather_shard([f"{collection}:train"], own_settings, each, reader=reranker.reader) for each in options]
    assert sum(count for count, _ in parts) == len(ANIMALS)
    assert parts[0][1] == parts[1][1] and len(list(parts[0][1].glob("*.npz"))) == len(ANIMALS)


@pytest.mark.slow
def test_static_heads_are_found_and_saved(
    reranker: Reranker, own_settings: Settings, collection: Path, tmp_path: Path
) -> None:
    found = find_static_heads([f"{collection}:train"], own_settings, SMALL, size=2, reader=reranker.reader)
    assert set(found.ndcg) == {"query", "share", "icr"} and 0 < found.ndcg["query"] <= 1
    found.heads.save(tmp_path / "heads.json")
    assert StaticHeads.load(tmp_path / "heads.json") == found.heads
    assert set(found.heads.reference) == {"query", "share", "icr"}


def test_what_does_not_go_together_is_told_before_anything_is_read(own_settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    for sources, target, options, says in (
        ([], out, TrainOptions(), "give a SOURCE"),
        (["animals"], tmp_path / "x.json", TrainOptions(), "ends in .onnx"),
        (["animals"], out, TrainOptions(shard=(1, 2)), "gather_shard"),
        (["animals"], out, TrainOptions(qrels=out), "go together"),
        (["engine:train"], out, TrainOptions(), "engine:made"),
    ):
        with pytest.raises(SettingsError, match=says):
            train(sources, target, own_settings, options)
    with pytest.raises(SettingsError, match="give a SOURCE"):
        find_static_heads([], own_settings)


def test_a_reader_of_another_layout_is_refused(
    reranker: Reranker, own_settings: Settings, collection: Path, tmp_path: Path
) -> None:
    """No head set or router is shipped for the layout joint: no fingerprint would tell."""
    backbone = own_settings.backbone.model_copy(update={"layout": "joint"})
    joint = own_settings.model_copy(update={"backbone": backbone})
    sources = [f"{collection}:train"]
    with pytest.raises(SettingsError, match="backbone.layout = joint.* in the layout late"):
        train(sources, tmp_path / "x.onnx", joint, SMALL, reader=reranker.reader)
    with pytest.raises(SettingsError, match="backbone.layout = joint"):
        find_static_heads(sources, joint, reader=reranker.reader)
    with pytest.raises(SettingsError, match="backbone.layout = joint"):
        evaluate(collection, joint, EvaluateOptions(split="train", timed=0), reader=reranker.reader)


def test_a_merge_of_nothing_is_refused(reranker: Reranker, own_settings: Settings, tmp_path: Path) -> None:
    for folder, error in ((tmp_path / "no", SettingsError), (tmp_path, DataError)):
        with pytest.raises(error, match=folder.name):
            train(
                ["animals"], tmp_path / "x.onnx", own_settings, TrainOptions(merge=(folder,)), reader=reranker.reader
            )


@pytest.mark.parametrize(("key", "value"), [("limit", -1), ("relevant_from", 0), ("timed", -1), ("layers", 0)])
def test_options_that_are_none(key: str, value: int) -> None:
    with pytest.raises(SettingsError, match=rf"{key} = {value}: give \d or more"):
        EvaluateOptions(**{key: value})
