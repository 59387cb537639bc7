"""Training a probe: what is planted is found, scores are absolute odds, and the file gives the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.documents import Hit
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError, DataError
from connector.heads.fusion import fuse
from connector.heads.probe import ProbeSignal
from connector.heads.routes import route_scores
from connector.routing.bundle import Bundle
from connector.statistics.head_tables import SearchedQuery
from connector.statistics.signal_tables import SignalTable
from connector.training.router import Router
from connector.training.train_router import Backbone, Trained
from connector.training.train_signals import JudgedWindow, probe_layers, train_signals
from connector.training.windows import TrainWindows, short_windows
from router_export import export
from tests.embedding.tiny_model import save_embedder

HIDDEN, DOCUMENTS, LAYERS = 12, 8, (16, 20)
BACKBONE = Backbone("made-up", "f" * 64, "e" * 64, "solo", 30)
DIRECTION = np.random.default_rng(1).standard_normal((2, HIDDEN))


def windows(queries: int = 120, collections: int = 6, noise: float = 1.0, seed: int = 2) -> list[JudgedWindow]:
    """States hold relevance along one direction; a first stage knows some of it."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(queries):
        grades = np.zeros(DOCUMENTS)
        grades[random.choice(DOCUMENTS, 2, replace=False)] = (1, 2)
        states = random.standard_normal((2, DOCUMENTS, HIDDEN)) * noise + 5
        states += grades[None, :, None] * DIRECTION[:, None, :] * 0.4
        nothing = np.zeros((0, 0), dtype=np.float32)
        table = SignalTable(
            f"q{number}",
            tuple(f"d{at}" for at in range(DOCUMENTS)),
            grades + 2 * random.standard_normal(DOCUMENTS),
            LAYERS,
            states.astype(np.float32),
            nothing,
            np.full(DOCUMENTS, 9),
            tuple((at,) for at in range(DOCUMENTS)),
            "a query",
            {f"d{at}": int(grade) for at, grade in enumerate(grades)},
            f"c{number % collections}:train",
        )
        found.append(JudgedWindow(table, 3.0))
    return found


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train_signals(windows(), BACKBONE, {"command": "a test"})


def test_what_is_planted_is_found(trained: Trained) -> None:
    gains = trained.metadata.gains
    assert gains["first stage"] < gains["probe"] - 0.05 < gains["probe and first stage"] - 0.05
    (weights,) = trained.router.probes
    cosine = float((weights.numpy() * DIRECTION).sum()) / np.linalg.norm(weights) / np.linalg.norm(DIRECTION)
    assert cosine > 0.8


def test_where_there_is_nothing_nothing_is_made_up() -> None:
    """States of noise gain nothing on collections that were left out."""
    noise = [
        JudgedWindow(replace(own.table, states=np.random.default_rng(at).random((2, 8, 12), dtype=np.float32)), 1.0)
        for at, own in enumerate(windows())
    ]
    gains = train_signals(noise, BACKBONE, {}).metadata.gains
    assert gains["probe"] < gains["first stage"] and gains["probe and first stage"] < gains["first stage"] + 0.02


def test_scores_are_odds_whatever_comes_with_a_document(trained: Trained, tmp_path: Path) -> None:
    bundle = export(trained.router, trained.metadata, tmp_path / "r.onnx").bundle
    route = bundle.static_route()
    told, right = [], []
    for table, _, _ in windows(seed=9):
        scores, _ = route_scores(route, table.signal_scores(route.signals), table.documents)
        assert route.absolute is not None
        assert fuse(scores, None, "none", route.absolute.spread).tobytes() == scores.tobytes()
        few = replace(table, states=table.states[:, 3:5], documents=((0,), (1,)), lengths=table.lengths[3:5])
        alone, _ = route_scores(route, few.signal_scores(route.signals), few.documents)
        assert alone.tobytes() == scores[3:5].tobytes()
        told.append(1 / (1 + np.exp(-scores)))
        right.append([table.qrels[own] > 0 for own in table.ids])
    probabilities, relevant = np.concatenate(told), np.concatenate(right)
    # Each that is not relevant stood for three.
    weights = np.where(relevant, 1.0, 3.0)
    assert abs(np.average(probabilities, weights=weights) - np.average(relevant, weights=weights)) < 0.03
    sure = probabilities > 0.5
    assert np.average(relevant[sure], weights=weights[sure]) > 0.4


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    return Embedder.load(str(save_embedder(tmp_path / "tiny")))


def beside(judged: list[JudgedWindow], worth: float) -> list[JudgedWindow]:
    """With cosines that know so much of the grades."""
    random = np.random.default_rng(4)
    found = []
    for window in judged:
        grades = np.array([window.table.qrels[own] for own in window.table.ids])
        near = (0.5 + 0.1 * (worth * grades + random.standard_normal(len(grades)))).astype(np.float32)
        found.append(window._replace(table=replace(window.table, similarities=near)))
    return found


def test_an_embedding_model_beside_the_probe(embedder: Embedder, tmp_path: Path) -> None:
    alone = train_signals(windows(noise=3), BACKBONE, {})
    both = train_signals(beside(windows(noise=3), 1.0), BACKBONE, {}, embedder=embedder)
    gains = both.metadata.gains
    assert gains["similarity"]["share"] > 0
    assert gains["probe and first stage"] > alone.metadata.gains["probe and first stage"]
    bundle = export(both.router, both.metadata, tmp_path / "r.onnx").bundle
    (member,) = bundle.metadata.similarities
    assert (member.similarity, member.digest) == ("tiny", embedder.digest)
    bundle.metadata.check_embedder("tiny", embedder.digest)
    for name, digest, told in ((None, None, "there is none"), ("bge", "0" * 64, r"is bge \(000000000000\)")):
        with pytest.raises(BackboneError, match=f"tiny .*{told}; set router.embedder"):
            bundle.metadata.check_embedder(name, digest)
    route = bundle.static_route()
    assert str(route.signals[1]) == "similarity/tiny" and route.needs.similarity
    odds, right = [], []
    for table, _, _ in beside(windows(noise=3, seed=9), 1.0):
        scores, _ = route_scores(route, table.signal_scores(route.signals), table.documents)
        odds.append(1 / (1 + np.exp(-scores)))
        right.append([table.qrels[own] > 0 for own in table.ids])
    probabilities, relevant = np.concatenate(odds), np.concatenate(right)
    weights = np.where(relevant, 1.0, 3.0)
    assert abs(np.average(probabilities, weights=weights) - np.average(relevant, weights=weights)) < 0.03


def test_an_embedding_model_that_knows_nothing_is_left_out(embedder: Embedder) -> None:
    trained = train_signals(beside(windows(), 0.0), BACKBONE, {}, embedder=embedder)
    assert trained.metadata.gains["similarity"]["share"] == 0
    assert not trained.metadata.similarities and len(trained.metadata.pool) == 1


def test_a_file_gives_the_same_numbers(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    trained.router.save(path, trained.metadata)
    router, told = Router.load(path)
    first = export(trained.router, trained.metadata, tmp_path / "a.onnx").bundle
    second = export(router, told, tmp_path / "b.onnx").bundle
    assert first.path.read_bytes() == second.path.read_bytes()
    (signal,) = Bundle.load(first.path).static_route().signals
    assert isinstance(signal, ProbeSignal) and signal.layers == LAYERS
    np.testing.assert_array_equal(signal.weights, trained.router.probes[0].numpy())
    assert first.static_route().needs.depth(30) == 20


def test_weights_that_do_not_fit_are_refused(trained: Trained, tmp_path: Path) -> None:
    other = train_signals(windows(40), BACKBONE, {}).router
    other.probes = (other.probes[0][:1],)
    with pytest.raises(BackboneError, match="probes"):
        other.save(tmp_path / "r.safetensors", trained.metadata)


def test_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="0 windows hold a relevant document and another"):
        train_signals([JudgedWindow(replace(own.table, qrels={}), 1.0) for own in windows(8)], BACKBONE, {})


def test_layers_of_other_llms() -> None:
    assert probe_layers(30) == (12, 16) and probe_layers(12) == (5, 6) and probe_layers(1) == (1,)


def searched(grades: Iterable[int], number: int = 0) -> SearchedQuery:
    hits = [Hit(f"d{at}", 9.0 - at, {}) for at, _ in enumerate(grades)]
    return SearchedQuery(f"q{number}", "a query", hits, {f"d{at}": grade for at, grade in enumerate(grades)})


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), max_size=6), st.integers(0, 9))
def test_short_windows(grades: list[list[int]], seed: int) -> None:
    every = TrainWindows("c:train", 9, tuple(searched(own, at) for at, own in enumerate(grades)), ())
    found = short_windows(every, 4, seed)
    assert found == short_windows(every, 4, seed)
    assert len(found) == min(4, sum(len(set(own)) > 1 for own in grades))
    for short, others, _ in found:
        whole = grades[int(short.query_id[1:])]
        kept = [whole[int(hit.id[1:])] for hit in short.hits]
        assert [hit.id for hit in short.hits] == sorted((hit.id for hit in short.hits), key=lambda own: int(own[1:]))
        best, rest = kept.count(max(whole)), sum(grade < max(whole) for grade in kept)
        assert 1 <= best <= 2 and 1 <= rest <= 6
        assert others * rest == pytest.approx(sum(grade < max(whole) for grade in whole))
    some = short_windows(every, 4, seed, whole=2)
    assert [own.whole for own in some] == [True, True, False, False][: len(some)] and some[2:] == found[2:]
    for own in some[:2]:
        assert own.searched == every.windows[int(own.searched.query_id[1:])] and own.others == 1


def test_the_first_stage_s_weight_is_found_in_whole_windows() -> None:
    """Where the first stage knows all that there is to know, and short windows say otherwise."""
    random = np.random.default_rng(3)
    lied = []
    for at, own in enumerate(windows()):
        grades = np.array([own.table.qrels[name] for name in own.table.ids])
        told = grades if at % 3 else random.standard_normal(DOCUMENTS)
        lied.append(JudgedWindow(replace(own.table, first_stage=told.astype(float)), 3.0, whole=at % 3 != 0))
    trained = train_signals(lied, BACKBONE, {})
    assert trained.metadata.gains["queries"] == sum(own.whole for own in lied)
    assert trained.metadata.gains["probe and first stage"] > 0.99


def test_rare_relevance_gives_odds_that_say_so() -> None:
    """Where next to nothing is relevant, steps of Newton's method go too far unless they are halved."""
    rare = [own._replace(others=300.0) for own in windows()]
    absolute = train_signals(rare, BACKBONE, {}).metadata.absolute
    assert absolute is not None and -12 < absolute.bias < -3 and 0.2 < absolute.spread < 5
