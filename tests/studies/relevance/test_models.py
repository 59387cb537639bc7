"""What models are worth and cost: the arithmetic, the price of a cascade, and a chart that names all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from connector.checkpoints.pulling import Checkpoint
from connector.sections import Settings
from connector.studies.relevance.models import gflop, main, models_chart, models_table, priced, weights_met
from tests.embedding.tiny_model import save_embedder

SMALL = {
    "name": "small",
    "model": "smollm2-135m",
    "gain": 0.06,
    "error": 0.01,
    "queries": 423,
    "gflop": 100,
    "seconds": 2.0,
    "cached_seconds": 0.2,
    "bytes": 1_000_000,
}
LARGE = {**SMALL, "name": "large", "gain": 0.09, "gflop": 1000, "seconds": 20.0, "cached_seconds": 1.0}


def test_weights_of_a_known_decoder(smollm2: Checkpoint) -> None:
    config = json.loads((smollm2.path / "config.json").read_text(encoding="utf-8"))
    weights, attended = weights_met(config, 30)
    # Of its 134,515,008 weights 28,311,552 are embeddings, and 35,136 scale norms.
    assert weights == 134_515_008 - 28_311_552 - 35_136
    assert attended == 30 * 576


def test_a_window_costs_a_product_and_a_sum_a_weight_and_token() -> None:
    assert gflop(1e6, 0, tokens=100, window=10) == pytest.approx(2.0)
    assert gflop(0, 1000, tokens=100, window=10) == pytest.approx(0.2)


def test_the_cheapest_comes_first() -> None:
    table = models_table([LARGE, SMALL])
    assert table.index("small ") < table.index("large ")


def test_the_chart_names_every_point_and_every_price() -> None:
    drawn = models_chart({"points": [SMALL, LARGE]})
    for name in ("small", "large", "GFLOP", "bytes kept of a document", "seconds"):
        assert name in drawn


def test_a_cascade_costs_what_its_models_cost(settings: Settings) -> None:
    given = [f"cache.path={settings.cache.path}", "backbone.dtype=float32"]
    alone = priced({"name": "small", "model": "smollm2-135m", "gain": 0.0}, 1, given)
    both = {"name": "both", "model": "smollm2-135m", "second": "smollm2-135m", "hits": 5, "gain": 0.0}
    found = priced(both, 1, given)
    assert found["gflop"] == pytest.approx(alone["gflop"] * 1.25, rel=0.01)
    assert found["bytes"] == pytest.approx(alone["bytes"] * 2, rel=0.2)
    assert found["seconds"] > found["cached_seconds"] > 0
    assert "both" in models_chart({"points": [found | {"error": 0.01, "queries": 1}]})


def test_an_embedding_model_beside_the_llm_costs_what_it_costs(settings: Settings, tmp_path: Path) -> None:
    given = [f"cache.path={settings.cache.path}", "backbone.dtype=float32"]
    folders = {"tiny": str(save_embedder(tmp_path / "tiny"))}
    embedder = {"name": "tiny", "embedder": "tiny", "weights": 1e6, "attended": 10, "gain": 0.0}
    alone = priced({"name": "small", "model": "smollm2-135m", "gain": 0.0}, 1, given)
    beside, apart = (priced(each, 1, given, folders) for each in ({**embedder, "model": "smollm2-135m"}, embedder))
    assert {key: beside[key] for key in ("name", "gain", "layers")} == {"name": "tiny", "gain": 0.0, "layers": 16}
    # Vectors of eight float32.
    assert apart["bytes"] == 32 and "layers" not in apart
    assert beside["gflop"] == alone["gflop"] + apart["gflop"] > alone["gflop"]
    assert beside["bytes"] - apart["bytes"] == pytest.approx(alone["bytes"], rel=0.2)
    assert beside["seconds"] > beside["cached_seconds"] > 0


def test_a_point_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"points": [SMALL]}))
    told = CliRunner().invoke(main, [str(file), str(tmp_path / "out.svg"), "--measure", "nobody"])
    assert told.exit_code == 2 and "--measure nobody" in told.output
    told = CliRunner().invoke(main, [str(file), str(tmp_path / "out.svg")])
    assert told.exit_code == 0 and "+0.0600" in told.output
    assert json.loads(file.read_text())["points"] == [SMALL]
