"""A decoder's shape: from its file and from the loaded model alike, and refused where it says none."""

from __future__ import annotations

import pytest

from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from tests.backbone.tiny import FAMILIES, config_of


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_file_and_loaded_model_say_the_same(family: str) -> None:
    config = config_of(family)
    shape = BackboneShape.from_config(config.to_dict(), "config.json")
    assert shape == BackboneShape.of_model(config)
    assert (shape.family, shape.layers, shape.heads, shape.kv_heads, shape.hidden) == (family, 4, 4, 2, 32)
    assert len(shape.all_heads()) == 16 and shape.all_heads()[-1] == (3, 3)


def test_what_follows_from_the_others_may_be_missing_and_the_decoder_may_lie_deeper() -> None:
    decoder = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": None,
        "hidden_size": 32,
        "max_position_embeddings": 99,
    }
    expected = BackboneShape("seen", 2, 4, 4, 8, 32, 99)
    assert BackboneShape.from_config({"model_type": "seen", **decoder}, "config.json") == expected
    assert BackboneShape.from_config({"model_type": "seen", "text_config": decoder}, "config.json") == expected


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 2}, {"text_config": 3}, {"num_hidden_layers": "two"}])
def test_what_is_no_decoder_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(BackboneError, match=r"x/config\.json names no layers"):
        BackboneShape.from_config(config, "x/config.json")
