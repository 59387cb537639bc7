"""Routers and head sets on another format of their model's weights, and on weights that are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from connector.backbone.open_reader import open_reader
from connector.checkpoints.checkpoint import Checkpoint
from connector.diagnosis.model import heads
from connector.errors import BackboneError
from connector.heads.head_sets import StaticHeads, shipped_path
from connector.reranking.reranker import Reranker
from connector.routing import formats
from connector.routing.bundle import shipped_bundle
from connector.sections import Settings
from connector.settings import load_settings

pytestmark = pytest.mark.slow

QUERY = "how long do cats sleep"
ROUTER, HEADS = shipped_bundle("smollm2-135m", "solo"), shipped_path("smollm2-135m", "late")


def copied(source: Checkpoint, folder: Path, change: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]]) -> Path:
    """The model as somebody else saved it: no manifest, other files, other weights."""
    shutil.copytree(source.path, folder, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
    weights = load_file(source.path / "model.safetensors")
    changed = {name: np.ascontiguousarray(change(name, value)) for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def rounded(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounded") / "model"
    return copied(smollm2, folder, lambda name, value: value.astype(ml_dtypes.bfloat16))


@pytest.fixture(scope="module")
def scrambled(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of every matrix of one layer in another order."""
    order = np.random.default_rng(0)

    def change(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        inside = name.startswith("model.layers.8.") and value.ndim == 2
        return value[order.permutation(len(value))] if inside else value

    return copied(smollm2, tmp_path_factory.mktemp("scrambled") / "model", change)


def settings_of(model: Path | str, cache: Path, **options: Any) -> Settings:
    named = {name.replace("__", "."): value for name, value in options.items()}
    same = {"backbone.model": str(model), "backbone.dtype": "float32", "backbone.runtime": "torch"}
    return load_settings(os.devnull, {**same, "cache.path": str(cache), **named}, environment={})


def test_another_rounding_takes_the_router_and_is_checked_once(
    rounded: Path, reranker: Reranker, cats: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(rounded, tmp_path, router__bundle=str(ROUTER))
    reader = open_reader(settings)
    own = Reranker.from_settings(settings, reader=reader)
    assert reader.fingerprint != reranker.reader.fingerprint
    assert own.routes.default == "routed"
    (finding,) = heads(settings, reader.identity)
    assert (finding.level, "made with another format" in finding.seen) == ("ok", True)
    scores, expected = ([hit.head_score for hit in one.rerank(QUERY, cats).hits] for one in (own, reranker))
    np.testing.assert_allclose(scores, expected, atol=0.2)
    (memory,) = (tmp_path / "formats").iterdir()
    assert 0 < json.loads(memory.read_text())["difference"] < 0.05

    def again(*arguments: Any) -> Any:
        raise AssertionError("the built-in documents were read again")

    monkeypatch.setattr(formats, "built_in_scores", again)
    assert Reranker.from_settings(settings, reader=reader).routes.bundle is not None


def test_it_takes_head_sets_too(rounded: Path, tmp_path: Path) -> None:
    settings = settings_of(rounded, tmp_path, backbone__layout="late", router__bundle=str(HEADS))
    assert Reranker.from_settings(settings).routes.default == "static"
    assert len(list((tmp_path / "formats").iterdir())) == 1


def from_hub(folder: Path, cache: Path) -> Settings:
    """The model by its id, of which the hub's cache holds that folder."""
    note = cache / "models" / "hub" / "HuggingFaceTB--SmolLM2-135M-Instruct.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"path": str(folder)}))
    return settings_of("HuggingFaceTB/SmolLM2-135M-Instruct", cache, backbone__offline=True)


def test_the_hub_s_format_gets_what_is_shipped_for_the_model(rounded: Path, tmp_path: Path) -> None:
    bundle = Reranker.from_settings(from_hub(rounded, tmp_path)).routes.bundle
    assert bundle is not None and bundle.path == ROUTER


def test_where_nobody_asked_for_the_router_a_model_that_it_does_not_fit_ranks_without(
    scrambled: Path, cats: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = Reranker.from_settings(from_hub(scrambled, tmp_path))
    assert own.routes.bundle is None and own.rerank(QUERY, cats).reranked
    assert "ranking without it" in caplog.text and "% of their spread" in caplog.text


def test_weights_with_a_scrambled_layer_are_refused_each_time(scrambled: Path, tmp_path: Path) -> None:
    settings = settings_of(scrambled, tmp_path, router__bundle=str(ROUTER))
    reader = open_reader(settings)
    for _ in range(2):
        with pytest.raises(BackboneError, match=r"made for smollm2-135m.* [3-9]\d% of their spread") as refused:
            Reranker.from_settings(settings, reader=reader)
        assert "rh-connector train" in str(refused.value) and "\n" not in str(refused.value)
    heads = settings_of(scrambled, tmp_path, backbone__layout="late", router__bundle=str(HEADS))
    with pytest.raises(BackboneError, match=r"% of their spread"):
        Reranker.from_settings(heads)


def test_without_stored_scores_another_format_is_refused_as_ever(rounded: Path, tmp_path: Path) -> None:
    assert HEADS is not None
    found = StaticHeads.load(HEADS)
    for name, reference in (("none", {}), ("some", {"query": found.reference["query"]})):
        replace(found, reference=reference).save(tmp_path / f"{name}.json")
        settings = settings_of(
            rounded, tmp_path, backbone__layout="late", router__bundle=str(tmp_path / f"{name}.json")
        )
        with pytest.raises(BackboneError, match="not for this backbone, template and layout"):
            Reranker.from_settings(settings)


def test_a_router_of_another_layout_is_no_matter_of_formats(rounded: Path, tmp_path: Path) -> None:
    settings = settings_of(rounded, tmp_path, backbone__layout="late", router__bundle=str(ROUTER))
    with pytest.raises(BackboneError, match="not for this backbone, template and layout"):
        Reranker.from_settings(settings)
