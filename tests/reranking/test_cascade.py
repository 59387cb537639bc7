"""A second LLM behind the first: the real small one twice, the second time with a router that says the opposite."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.cancelling import CancelScope
from connector.documents import RerankResult
from connector.errors import BackboneError, SettingsError
from connector.heads.head_sets import HeadSet
from connector.offline.workers import LoadedLlm
from connector.reranking.cascade import Cascade, Pace, cascaded
from connector.reranking.reranker import Reranker
from connector.reranking.second_settings import second_settings, without_second
from connector.routing.bundle import shipped_bundle
from connector.routing.selection import Routes
from connector.sections import Settings
from connector.settings import load_settings
from tests.reranking.router_file import router_file

QUERY = "how long do cats sleep"
NAME = "second"
_scores = st.floats(-8, 8)


def opposed(routes: Routes, reader: Reader) -> Routes:
    """A router whose gates are those of another, turned round."""
    assert routes.bundle is not None
    metadata = routes.bundle.metadata
    static: Any = {**metadata.static, "gates": [-gate for gate in metadata.static["gates"]]}
    turned = metadata.model_copy(update={"static": static})
    return Routes(reader, "routed", {}, replace(routes.bundle, metadata=turned))


def with_second(reranker: Reranker, hits: int = 3, budget_ms: float | None = None, **options: Any) -> Reranker:
    second = Cascade(reranker.reader, opposed(reranker.routes, reranker.reader), NAME, hits, budget_ms)
    return Reranker(reranker.reader, reranker.routes, cascade=second, **options)


def orders(result: RerankResult) -> list[int]:
    return [hit.index for hit in result.hits]


@given(st.data(), st.lists(_scores, min_size=1, max_size=30))
def test_what_both_read_is_their_mean_and_the_rest_moves_with_it(data: st.DataObject, first: list[float]) -> None:
    places = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, unique=True))
    second = data.draw(st.lists(_scores, min_size=len(places), max_size=len(places)))
    before = np.array(first)
    after = cascaded(before, places, np.array(second))
    assert after[places] == pytest.approx((before[places] + second) / 2)
    rest = [at for at in range(len(first)) if at not in places]
    moved = np.mean(after[places] - before[places])
    assert after[rest] == pytest.approx(before[rest] + moved)
    assert np.array_equal(before, first)
    # In whatever order they are told.
    turned = cascaded(before, places[::-1], np.array(second)[::-1])
    assert np.array_equal(turned, after)


def test_a_second_model_that_says_the_same_changes_nothing(reranker: Reranker, cats: list[str]) -> None:
    same = Cascade(reranker.reader, reranker.routes, NAME, 3)
    plain = reranker.rerank(QUERY, cats, first_stage="order")
    found = Reranker(reranker.reader, reranker.routes, cascade=same).rerank(QUERY, cats, first_stage="order")
    assert [(hit.index, hit.score, hit.head_score) for hit in found.hits] == [
        (hit.index, hit.score, hit.head_score) for hit in plain.hits
    ]
    assert (plain.second_hits, found.second_hits) == (None, 3)
    read = [hit.index for hit in found.hits if hit.second_score is not None]
    assert read == orders(plain)[:3]
    assert "second" in found.timings_ms and "second" not in plain.timings_ms


@hypothesis_settings(max_examples=25)
@given(
    st.integers(1, 8),
    st.sampled_from(["auto", 0.0, 1.5, "rrf", "none"]),
    st.lists(st.one_of(st.just(7.0), st.floats(0, 9)), min_size=5, max_size=5) | st.just("order") | st.none(),
    st.booleans(),
)
def test_scores_and_order_are_what_the_formula_says(
    reranker: Reranker, hits: int, fusion: Any, first_stage: Any, empty: bool
) -> None:
    cats = [
        "Rust is a systems programming language that guarantees memory safety.",
        "The stock market closed higher on Friday after a volatile week.",
        "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
        "A cat's whiskers are about as wide as its body and help it to judge gaps.",
        " " if empty else "To bake bread, mix flour, water, salt and yeast and let the dough rest.",
    ]
    plain = Reranker(reranker.reader, reranker.routes, fusion=fusion).rerank(QUERY, cats, first_stage=first_stage)
    result = with_second(reranker, hits, fusion=fusion).rerank(QUERY, cats, first_stage=first_stage)
    assert sorted(orders(result)) == sorted(orders(plain))
    unread = {hit.index for hit in plain.hits if hit.head_score is None}
    with_text = [hit for hit in plain.hits if hit.head_score is not None and hit.passages]
    read = [hit.index for hit in with_text[:hits]]
    assert result.second_hits == len(read)
    before = {hit.index: hit.head_score or 0.0 for hit in plain.hits}
    after = {hit.index: hit for hit in result.hits}
    assert {at for at, hit in after.items() if hit.second_score is not None} == set(read)
    moved = np.mean([((after[at].second_score or 0.0) - before[at]) / 2 for at in read])
    for at, hit in after.items():
        if at in unread or not hit.passages:
            continue
        own = (hit.second_score - before[at]) / 2 if hit.second_score is not None else moved
        assert hit.head_score == pytest.approx(before[at] + own)
        assert hit.second_counted == pytest.approx(own)
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    if empty:
        assert orders(result)[-1] == 4


def test_pinned_hits_stay_in_front_unread(reranker: Reranker, cats: list[str]) -> None:
    result = with_second(reranker).rerank(QUERY, cats, first_stage=[1e6, 4, 4, 2, 1])
    assert orders(result)[0] == 0 and result.hits[0].second_score is None and result.second_hits == 3


def test_equal_texts_get_equal_scores_on_both_sides_of_the_cut(reranker: Reranker, cats: list[str]) -> None:
    best = orders(reranker.rerank(QUERY, cats))[0]
    result = with_second(reranker, hits=2).rerank(QUERY, [*cats, cats[best], cats[best]])
    twins = [hit for hit in result.hits if hit.index in (best, 5, 6)]
    assert len({hit.score for hit in twins}) == len({hit.second_score for hit in twins}) == 1
    assert result.second_hits == 3


def test_one_document_alone_gets_the_mean(reranker: Reranker, cats: list[str]) -> None:
    (alone,) = with_second(reranker).rerank(QUERY, [cats[2]]).hits
    (first,) = reranker.rerank(QUERY, [cats[2]]).hits
    assert alone.second_score is not None and first.head_score is not None
    assert alone.score == alone.head_score == (first.head_score + alone.second_score) / 2


def test_instruction_and_length_reach_the_second_model(reranker: Reranker, cats: list[str]) -> None:
    both = with_second(reranker)
    plain = {hit.index: hit.second_score for hit in both.rerank(QUERY, cats).hits}
    told = {hit.index: hit.second_score for hit in both.rerank(QUERY, cats, instruction="find facts on pets").hits}
    cut = {hit.index: hit.second_score for hit in both.rerank(QUERY, cats, most_tokens=4).hits}
    assert plain[2] is not None
    assert told[2] != plain[2] and cut != plain


def test_nothing_is_read_twice_where_nothing_is_read(reranker: Reranker) -> None:
    both = with_second(reranker)
    assert both.rerank(QUERY, []).second_hits is None
    assert both.rerank(QUERY, ["", " "]).second_hits is None


class Failing(Cascade):
    """Its LLM does something when it is asked."""

    def __init__(self, cascade: Cascade, do: Any) -> None:
        super().__init__(cascade.reader, cascade.routes, cascade.name, cascade.hits)
        self._do = do

    def _read(self, *arguments: Any) -> Any:
        self._do(*arguments)
        return super()._read(*arguments)


def failing(reranker: Reranker, do: Any) -> Reranker:
    cascade = with_second(reranker).cascade
    assert cascade is not None
    return Reranker(reranker.reader, reranker.routes, cascade=Failing(cascade, do))


def test_a_second_model_that_fails_leaves_the_first_ones_order(
    reranker: Reranker, cats: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the card is gone")

    with caplog.at_level(logging.ERROR):
        result = failing(reranker, broken).rerank(QUERY, cats)
    plain = reranker.rerank(QUERY, cats)
    assert [(hit.index, hit.score) for hit in result.hits] == [(hit.index, hit.score) for hit in plain.hits]
    assert result.reranked and result.second_hits == 0
    assert "second failed; the first LLM's order goes back" in caplog.text and "the card is gone" in caplog.text


def test_a_request_that_nobody_waits_for_ends(reranker: Reranker, cats: list[str]) -> None:
    scope = CancelScope()
    result = failing(reranker, lambda *_: scope.cancel()).rerank(QUERY, cats, scope=scope)
    assert (result.reranked, result.reason) == (False, "cancelled")


def test_a_deadline_that_passes_leaves_the_first_ones_order(reranker: Reranker, cats: list[str]) -> None:
    """It ends before the request's own, so that there is time for the answer."""
    ended: list[float] = []

    def slow(query: str, texts: Sequence[str], scope: CancelScope, *_: Any) -> None:
        while scope.reason is None:
            time.sleep(0.005)
        ended.append(scope.deadline)

    reranker.rerank(QUERY, cats)
    scope = CancelScope.after(2000)
    result = failing(reranker, slow).rerank(QUERY, cats, scope=scope)
    assert result.reranked and result.second_hits == 0
    assert orders(result) == orders(reranker.rerank(QUERY, cats))
    assert ended[0] < scope.deadline


def test_as_many_hits_are_read_as_the_budget_has_time_for(reranker: Reranker, cats: list[str]) -> None:
    both = with_second(reranker, hits=5, budget_ms=1_000_000)
    assert both.cascade is not None
    # Nobody knows yet how long one takes.
    assert both.rerank(QUERY, cats).second_hits == 1
    pace = both.cascade.pace
    assert pace.passage_ms is not None
    found = []
    for passage_ms in (1.0, 240_000.0, 340_000.0, 2_000_000.0):
        pace.passage_ms = passage_ms
        found.append(both.rerank(QUERY, cats).second_hits)
    assert found == [5, 4, 2, 0]


def test_new_documents_count_by_their_tokens_and_cached_ones_by_their_passages(reranker: Reranker) -> None:
    both = with_second(reranker, hits=4, budget_ms=1_000_000)
    assert both.cascade is not None
    texts = [f"Cats of colony {number} sleep {number} hours. " * 8 for number in range(4)]
    texts[3] *= 20
    pool, reader, pace = reranker.routes.pool(), reranker.reader, both.cascade.pace
    reader.clear_cache()
    missing = reader.missing(texts, pool)
    assert min(tokens for tokens, _ in missing) > 50
    assert [passages for _, passages in missing[:3]] == [1, 1, 1] and missing[3][1] > 1
    assert reader.missing(texts, pool, most_tokens=10) == [(10, 1)] * 4
    pace.token_ms, pace.passage_ms = 900_000 / sum(tokens for tokens, _ in missing[:2]), 0.0
    assert both.cascade._fitting(missing, 1_000_000) == 2
    reranker.rerank(QUERY, texts)
    cached = reader.missing(texts, pool)
    assert cached == [(0, passages) for _, passages in missing]
    pace.passage_ms = 250_000.0
    assert both.cascade._fitting(cached, 1_000_000) == 3


def test_a_pace_follows_what_was_measured() -> None:
    pace = Pace()
    assert pace.expected_ms(1000, 10) is None
    pace.learn(0, 0.0, 10, 50.0)
    assert (pace.expected_ms(0, 10), pace.expected_ms(1, 10)) == (50.0, None)
    pace.learn(100, 200.0, 10, 50.0)
    assert pace.expected_ms(1000, 10) == pytest.approx(2050.0)
    for _ in range(40):
        pace.learn(100, 400.0, 10, 50.0)
    assert pace.token_ms == pytest.approx(4.0, rel=1e-3)


def test_many_that_are_late_at_once_find_it_out_once() -> None:
    pace = Pace(token_ms=1.0, passage_ms=2.0)
    for _ in range(8):
        pace.late(100, 5, 220.0)
    assert pace.expected_ms(100, 5) == pytest.approx(220.0)
    pace.late(100, 5, 50.0)
    assert pace.expected_ms(100, 5) == pytest.approx(220.0)
    unknown = Pace()
    unknown.late(100, 5, 300.0)
    assert unknown.expected_ms(100, 5) == pytest.approx(300.0)


def test_what_was_too_slow_is_tried_again_later_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(token_ms=1.0, passage_ms=10.0)
    for _ in range(1000):
        pace.forget()
    assert pace.passage_ms == 10.0
    now[0] += 10
    pace.forget()
    assert pace.passage_ms == pytest.approx(10 * 0.9**10)


def test_scores_that_are_known_teach_nothing(settings: Settings, reranker: Reranker, cats: list[str]) -> None:
    """Where the readings' cache knows all, no time is measured."""
    both = with_second(reranker)
    assert both.cascade is not None
    reading = reranker.reader.read(QUERY, cats, both.routes.route(QUERY).needs, pool=both.routes.pool())
    known = replace(reading, timings_ms={"tokenize": 1.0})
    both.cascade.pace.passage_ms = 50.0

    class Known:
        read = staticmethod(lambda *_, **__: known)

    both.cascade.reader = Known  # type: ignore[assignment]
    both.cascade._read(QUERY, cats, CancelScope(), "", None)
    assert both.cascade.pace.passage_ms == 50.0


def test_a_scope_without_a_share_is_not_read_twice(reranker: Reranker, cats: list[str]) -> None:
    scope = CancelScope()
    scope.share = 0.0
    assert with_second(reranker).rerank(QUERY, cats, scope=scope).second_hits == 0


def test_a_router_is_needed_whose_scores_two_models_can_share(reranker: Reranker, settings: Settings) -> None:
    heads = Routes.of_heads(reranker.reader, HeadSet(((3, 1),), 1.0), "query")
    with pytest.raises(BackboneError, match=r"cascade\.model = second: .*set cascade\.bundle"):
        Cascade(reranker.reader, heads, NAME, 3)
    second = Cascade(reranker.reader, reranker.routes, NAME, 3)
    with pytest.raises(BackboneError, match=r"set router\.bundle"):
        Reranker(reranker.reader, heads, cascade=second)


def test_settings_that_do_not_go_together() -> None:
    def given(**more: str) -> Settings:
        return load_settings("/dev/null", {"cascade.model": "qwen2.5-coder-0.5b", **more}, environment={})

    with pytest.raises(SettingsError, match=r"backbone\.layout = late.*set backbone\.layout to solo"):
        Reranker.from_settings(given(**{"backbone.layout": "late"}))
    with pytest.raises(SettingsError, match=r"set router\.mode to auto"):
        Reranker.from_settings(given(**{"router.mode": "all"}))
    for key, value in (("cascade.hits", "0"), ("cascade.budget_ms", "0")):
        with pytest.raises(SettingsError, match=key):
            given(**{key: value})
    own = second_settings(given(**{"router.bundle": "mine.onnx", "router.mode": "static"}))
    assert own is not None and own.router.bundle is None and own.router.mode == "auto"
    assert own.backbone.model == "qwen2.5-coder-0.5b"
    assert second_settings(load_settings("/dev/null", {}, environment={})) is None
    # An embedding model counts with the routers that were trained with it.
    for model, bundle, kept in (
        ("smollm2-135m", None, True),
        ("gemma3-270m", None, False),
        ("gemma3-270m", "m", True),
    ):
        told = {"router.embedder": "bge-small-en-v1.5", "cascade.model": model, "cascade.bundle": bundle}
        own = second_settings(given(**told))
        assert own is not None and (own.router.embedder is not None) == kept
    assert second_settings(without_second(given())) is None and without_second(given()).backbone == given().backbone


@pytest.mark.slow
def test_the_settings_second_model_is_loaded_and_asked(
    settings: Settings, reranker: Reranker, cats: list[str], tmp_path: Path
) -> None:
    """Also by a worker, to which the routers' files travel, whatever their names."""
    shipped = shipped_bundle("smollm2-135m", "solo")
    assert shipped is not None
    one, other = (tmp_path / name / "router.onnx" for name in ("a", "b"))
    for path in (one, other):
        path.parent.mkdir()
    one.write_bytes(shipped.read_bytes())
    router_file(other)
    given = settings.model_copy(
        update={
            "router": settings.router.model_copy(update={"bundle": one}),
            "cascade": settings.cascade.model_copy(update={"model": "smollm2-135m", "bundle": other, "hits": 2}),
        }
    )
    plain = reranker.rerank(QUERY, cats)
    said = {hit.index: hit.head_score or 0.0 for hit in plain.hits}
    files = {path: path.read_bytes() for path in (one, other)}
    for found in (Reranker.from_settings(given, reader=reranker.reader), LoadedLlm(given, files).reranker):
        assert found.cascade is not None and found.cascade.reader is not found.reader
        result = found.rerank(QUERY, cats)
        assert result.second_hits == 2 and orders(result) != orders(plain)
        for hit in result.hits:
            if hit.index in orders(plain)[:2]:
                assert hit.second_score is not None
                assert hit.head_score == pytest.approx((said[hit.index] + hit.second_score) / 2)
        assert result.to_json()["second_hits"] == 2
        assert sum("second_score" in hit for hit in result.to_json()["hits"]) == 2
        found.close()


def test_a_model_without_a_router_is_told_before_it_is_fetched(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("connector.routing.opening.open_reader", fetched)
    for key, model in (("cascade", "owner/large"), ("backbone", "owner/small")):
        given = {"cascade.model": "smollm2-135m", f"{key}.model": model}
        with pytest.raises(BackboneError, match=rf"{key}\.model = {model}: a cascade needs a router"):
            Reranker.from_settings(load_settings("/dev/null", given, environment={}))


@pytest.mark.slow
def test_errors_of_the_second_model_name_its_own_keys(settings: Settings, reranker: Reranker, tmp_path: Path) -> None:
    wrong = router_file(tmp_path / "wrong.onnx", template="0" * 64)
    told = settings.cascade.model_copy(update={"model": "smollm2-135m", "bundle": wrong})
    with pytest.raises(BackboneError, match=r"^cascade\.model = smollm2-135m: .*cascade\.bundle") as error:
        Reranker.from_settings(
            settings.model_copy(update={"cascade": told}), reader=reranker.reader, second=reranker.reader
        )
    assert "router.bundle" not in str(error.value)


def test_readings_are_not_finite(reranker: Reranker, cats: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    both = with_second(reranker)
    assert both.cascade is not None
    read = reranker.reader.read

    def spoilt(*arguments: Any, **options: Any) -> Reading:
        reading = read(*arguments, **options)
        return replace(reading, states=np.full_like(reading.states, np.nan))

    class Spoilt:
        read = staticmethod(spoilt)
        missing = reranker.reader.missing

    monkeypatch.setattr(both.cascade, "reader", Spoilt)
    result = both.rerank(QUERY, cats)
    assert result.second_hits == 0 and orders(result) == orders(reranker.rerank(QUERY, cats))
