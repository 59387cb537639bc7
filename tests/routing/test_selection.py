"""Modes: routed, static and all, by settings and by request, with one document cache for the first two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connector.errors import BackboneError, RequestError
from connector.heads.head_sets import shipped_path
from connector.reranking.reranker import Reranker
from connector.routing.bundle import Bundle
from connector.routing.selection import Routes
from connector.sections import MODES, Settings
from connector.settings import load_settings
from tests.routing.heads_router import heads_router, router_for
from tests.routing.test_bundle import changed

QUERY = "how long do cats sleep"


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


@pytest.fixture(scope="session")
def settings(late_settings: Settings) -> Settings:
    """Heads are read in the layout ``late``."""
    return late_settings


def settings_with(settings: Settings, **options: Any) -> Settings:
    named = {key.replace("__", "."): value for key, value in options.items()}
    return load_settings("/dev/null", {"cache.path": settings.cache.path, **named}, environment={})


@pytest.fixture(scope="module")
def made(reranker: Reranker, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return router_for(reranker.reader, tmp_path_factory.mktemp("router") / "r.onnx")


@pytest.fixture(scope="module")
def routed(settings: Settings, made: Bundle) -> Reranker:
    """A router of heads, and all else at its default."""
    return Reranker.from_settings(settings_with(settings, backbone__layout="late", router__bundle=str(made.path)))


@pytest.mark.slow
def test_a_router_that_is_named_routes(routed: Reranker, made: Bundle, cats: list[str]) -> None:
    result = routed.rerank(QUERY, cats, first_stage=[5.0, 4.0, 3.0, 2.0, 1.0])
    assert result.reranked and result.mode == "routed" and result.hits[0].index == 2
    assert {(used.layer, used.head, used.readout) for used in result.gates} <= set(made.metadata.pool)
    assert 1 <= len(result.gates) <= made.metadata.most_heads
    assert all(used.gate > 0 for used in result.gates)
    assert result.first_stage_gate is not None and result.first_stage_gate >= 0
    assert result.deepest_layer == max(used.layer for used in result.gates)
    assert "route" in result.timings_ms
    record = result.to_json()
    assert record["mode"] == "routed" and set(record["gates"][0]) == {"layer", "head", "readout", "gate"}


def test_a_router_of_the_first_format_ranks(
    settings: Settings, reranker: Reranker, cats: list[str], tmp_path: Path
) -> None:
    reader = reranker.reader
    old = (Path(__file__).parent / "files" / "rh-router-1.onnx").read_bytes()
    path = changed(old, tmp_path, layout="late", fingerprint=reader.fingerprint, template=reader.template_hash)
    routes = Routes.from_settings(settings_with(settings, backbone__layout="late", router__bundle=str(path)), reader)
    assert routes.bundle is not None and routes.bundle.metadata.format == "rh-router-1"
    result = Reranker(reader, routes).rerank(QUERY, cats, first_stage=[5.0, 4.0, 3.0, 2.0, 1.0])
    assert (result.mode, result.hits[0].index) == ("routed", 2) and len(result.gates) > 1


def test_modes_of_one_request(routed: Reranker, cats: list[str]) -> None:
    for mode in MODES:
        result = routed.rerank(QUERY, cats, mode=mode)
        assert result.reranked and result.mode == mode
        assert (len(result.heads) == 270) == (mode == "all")
    routed.reader.clear_cache()
    assert routed.rerank(QUERY, cats).encoded == 5
    # The static set finds the documents that routing has cached.
    assert routed.rerank(QUERY, cats, mode="static").cached == 5
    assert routed.rerank("another question", cats).cached == 5
    with pytest.raises(RequestError, match="'some'.*routed, static, all"):
        routed.rerank(QUERY, cats, mode="some")  # type: ignore[arg-type]


def test_routed_twice_is_the_same_and_any_order_gives_the_same_scores(routed: Reranker, cats: list[str]) -> None:
    scores = [5.0, 4.0, 3.0, 2.0, 1.0]
    one = routed.rerank(QUERY, cats, first_stage=scores)
    other = routed.rerank(QUERY, cats[::-1], first_stage=scores[::-1])
    assert {4 - hit.index: hit.score for hit in other.hits} == {hit.index: hit.score for hit in one.hits}
    assert one.gates == other.gates


def test_a_mode_that_is_not_loaded_is_refused(reranker: Reranker, cats: list[str]) -> None:
    with pytest.raises(RequestError, match="routed.*no router is loaded"):
        reranker.rerank(QUERY, cats, mode="routed")


def test_a_router_file_serves_static_too_and_a_head_set_replaces_the_router(
    settings: Settings, routed: Reranker, made: Bundle
) -> None:
    reader = routed.reader
    own = Routes.from_settings(settings_with(settings, router__bundle=str(made.path)), reader)
    assert own.default == "routed" and own.bundle is not None and own.bundle.digest == made.digest
    heads = settings_with(settings, router__bundle=str(shipped_path("smollm2-135m", "late")))
    assert Routes.from_settings(heads, reader).default == "static"
    asked = settings_with(settings, router__bundle=str(shipped_path("smollm2-135m", "late")), router__mode="routed")
    with pytest.raises(BackboneError, match="router"):
        Routes.from_settings(asked, reader)


def test_a_router_for_something_else_is_refused(settings: Settings, routed: Reranker, tmp_path: Path) -> None:
    other = heads_router(tmp_path / "other.onnx", routed.reader.fingerprint, "c" * 64).path
    with pytest.raises(BackboneError, match="template"):
        Routes.from_settings(settings_with(settings, router__bundle=str(other)), routed.reader)
    with pytest.raises(BackboneError, match="cannot read"):
        Routes.from_settings(settings_with(settings, router__bundle=str(tmp_path / "no.onnx")), routed.reader)
