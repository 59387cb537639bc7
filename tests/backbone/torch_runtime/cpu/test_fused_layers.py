"""Layers in fewer operations: which families get them, and that results stay those of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from connector.backbone.torch_runtime.attention import EncodePass, active
from connector.backbone.torch_runtime.cpu.fused_layers import FusedLayer, fuse_layers
from connector.backbone.torch_runtime.decoder import load_decoder
from tests.backbone.tiny import FAMILIES, save_tiny
from tests.backbone.torch_runtime.packing import pack

FUSED = {"llama", "mistral", "qwen2", "qwen3", "smollm3"}
HEAD_DIM = {family: options.get("head_dim", 8) for family, options in FAMILIES.items()}
IDS = torch.arange(3, 40)[None]
CPU = torch.device("cpu")


def decoder(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    save_tiny(family, folder)
    model = load_decoder(folder, "cpu", dtype).layers
    pack(model, dtype)
    return model


def keys(model: Any) -> list[torch.Tensor]:
    """Of every layer, from one sequence."""
    run = EncodePass([IDS[0].numpy()], 0, {}, None, model.config.num_hidden_layers, CPU)
    with torch.inference_mode(), active(run):
        model(input_ids=IDS, position_ids=torch.arange(IDS.shape[1])[None], use_cache=False)
    return [run.keys[layer] for layer in sorted(run.keys)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_layers_give_what_they_gave(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = decoder(family, tmp_path, dtype)
    before = keys(model)
    replaced, why_not = fuse_layers(model, HEAD_DIM[family])
    assert replaced == (len(before) if family in FUSED else 0)
    assert (why_not is None) == (family in FUSED)
    assert sum(isinstance(layer, FusedLayer) for layer in model.layers) == replaced
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    for found, expected in zip(keys(model), before, strict=True):
        most = tolerance * float(expected.abs().max())
        torch.testing.assert_close(found, expected, atol=most, rtol=0)


def test_layers_that_rotate_and_layers_that_do_not_are_told_apart(tmp_path: Path) -> None:
    model = decoder("smollm3", tmp_path)
    rotates = [bool(own) for own in FAMILIES["smollm3"]["no_rope_layers"]]
    fuse_layers(model, HEAD_DIM["smollm3"])
    assert [layer._rotary for layer in model.layers] == rotates


class Louder(torch.nn.Module):
    """A norm that is not what its name says."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self._norm = norm.weight, norm.variance_epsilon, norm.forward

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        louder: torch.Tensor = 1.5 * self._norm(states)
        return louder


def test_a_layer_that_only_seems_to_be_of_the_kind_keeps_its_code(tmp_path: Path) -> None:
    model = decoder("llama", tmp_path)
    model.layers[1].post_attention_layernorm = Louder(model.layers[1].post_attention_layernorm)
    model.layers[2].further = torch.nn.Identity()
    before = keys(model)
    assert fuse_layers(model, HEAD_DIM["llama"]) == (2, "layer 1: it gives other results than its parts would")
    assert [isinstance(layer, FusedLayer) for layer in model.layers] == [True, False, False, True]
    for found, expected in zip(keys(model), before, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


class Swapped(torch.nn.Module):
    """An MLP that activates the other half."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
            mlp.act_fn,
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(self.gate_proj(states) * self.act_fn(self.up_proj(states)))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlps_that_only_seem_to_be_gated_so_keep_their_code(dtype: torch.dtype, tmp_path: Path) -> None:
    model = decoder("llama", tmp_path, dtype)
    model.layers[0].mlp = Swapped(model.layers[0].mlp)
    model.layers[2].mlp.act_fn = torch.nn.GELU("tanh")
    assert fuse_layers(model, HEAD_DIM["llama"]).replaced == 2
    assert [isinstance(layer, FusedLayer) for layer in model.layers] == [False, True, False, True]
