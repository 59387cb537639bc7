"""Decoder layers in a third of the operations, where a layer is what it seems to be.

With the few tokens of a query, most of the time of a layer of transformers goes into calling some ninety operations.
The common kind of layer (norm, attention with rotary embedding, norm, gated MLP; llama, mistral, qwen2, qwen3) takes
a third of them when its projections are one product, residuals are added in products, and a norm is one operation.
A layer is replaced only where its results on made-up states are those of the original, to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from connector.backbone.torch_runtime.attention import AttentionPass, LayerOptions, active, attend
from connector.backbone.torch_runtime.cpu.linear import NEAR, PackedLinear

__all__ = ["Fused", "FusedLayer", "fuse_layers"]

Tensor = torch.Tensor
_PROBE_TOKENS, _PROBE_START = 24, 5
_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_CHILDREN_OF_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True, slots=True)
class _Norm:
    """``w * x / rms(x)``."""

    weight: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> _Norm:
        """The norm that a module seems to be.

        Raises:
            AttributeError: it has no weight, or no epsilon under a known name.
        """
        epsilon = getattr(module, "variance_epsilon", None)
        return cls(module.weight, float(module.eps if epsilon is None else epsilon))

    def __call__(self, states: Tensor) -> Tensor:
        normed: Tensor = torch.nn.functional.rms_norm(states, self.weight.shape, self.weight, self.epsilon)
        return normed


class FusedLayer(torch.nn.Module):
    """One decoder layer over one sequence.

    Args:
        layer: the original, its linear layers packed.
        index: its number.
        options: of its attention.
        head_dim: dimension of a head.
        rotary: whether queries and keys are rotated.

    Raises:
        AttributeError: it is of another kind.
    """

    def __init__(self, layer: Any, index: int, options: LayerOptions, head_dim: int, *, rotary: bool) -> None:
        super().__init__()
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        if not all(isinstance(part, PackedLinear) for part in (*parts, attention.o_proj)):
            raise AttributeError("projections of another kind")
        if not _is_gated(layer.mlp):
            raise AttributeError("an MLP of another kind")
        self.qkv, self.o_proj = PackedLinear.joined(parts), attention.o_proj
        self.gate_proj, self.up_proj, self.down_proj = layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
        self._before, self._between = _Norm.of(layer.input_layernorm), _Norm.of(layer.post_attention_layernorm)
        names = ("q_norm", "k_norm")
        self._of_heads = [_Norm.of(getattr(attention, name)) for name in names if hasattr(attention, name)]
        self._queries, self._keys, _ = (part.out_features // head_dim for part in parts)
        self._index, self._options, self._head_dim, self._rotary = index, options, head_dim, rotary

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None, **_: Any
    ) -> Tensor:
        """[1, tokens, hidden] from the same, as transformers calls its layers."""
        states = self.qkv(self._before(hidden_states))[0].unflatten(1, (-1, self._head_dim))
        turned = states[:, : self._queries + self._keys]
        if self._of_heads:
            of_queries, of_keys = self._of_heads
            turned = torch.cat((of_queries(turned[:, : self._queries]), of_keys(turned[:, self._queries :])), dim=1)
        if self._rotary:
            assert position_embeddings is not None
            turned = _rotated(turned, *position_embeddings)
        by_head = turned.transpose(0, 1)
        values = states[:, self._queries + self._keys :].transpose(0, 1)
        attended = attend(self._index, by_head[: self._queries], by_head[self._queries :], values, self._options)
        hidden_states = self.o_proj(attended.flatten(1)[None], hidden_states)
        return self.mlp(self._between(hidden_states), hidden_states)

    def mlp(self, states: Tensor, added: Tensor | None = None) -> Tensor:
        """``down(silu(gate(x)) * up(x))``, plus ``added``: two passes over the widest vectors less than apart."""
        result: Tensor = self.down_proj(self.up_proj.times(states, self.gate_proj.silu(states)), added)
        return result


def _is_gated(block: torch.nn.Module) -> bool:
    """Whether an MLP has the parts that ``FusedLayer.mlp`` takes; that it does the same with them is tried."""
    parts = dict(block.named_children())
    if parts.keys() != _CHILDREN_OF_MLP:
        return False
    probe = torch.linspace(-4, 4, 65)
    is_silu = torch.allclose(parts.pop("act_fn")(probe), torch.nn.functional.silu(probe))
    return is_silu and all(isinstance(part, PackedLinear) for part in parts.values())


def _rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of [tokens, heads, d], the halves of a head as the two coordinates (GPT-NeoX's order)."""
    cosines, sines = cosines[0, :, None], sines[0, :, None]
    half = states.shape[2] // 2
    first, second = states[:, :, :half], states[:, :, half:]
    turned = states * cosines
    turned[:, :, :half].addcmul_(second, sines[:, :, :half], value=-1)
    turned[:, :, half:].addcmul_(first, sines[:, :, half:])
    return turned


@dataclass
class _Probe(AttentionPass):
    """Keeps what comes to a layer's attention, and gives back the queries."""

    came: list[Tensor] = field(default_factory=list)
    options: LayerOptions | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        self.came, self.options = [q, k, v], options
        return q.clone()


class Fused(NamedTuple):
    """How many layers were replaced, and why the first of the others was not; None: all were."""

    replaced: int
    why_not: str | None


@torch.inference_mode()
def fuse_layers(model: Any, head_dim: int) -> Fused:
    """Replace the layers of a packed model that are what they seem to be."""
    replaced, why_not = 0, None
    for index, layer in enumerate(model.layers):
        try:
            model.layers[index] = _replacement(model, index, layer, head_dim)
            replaced += 1
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            # Another kind of layer, or another version of transformers.
            why_not = why_not or f"layer {index}: {' '.join(str(error).split())[:120]}"
    return Fused(replaced, why_not)


def _replacement(model: Any, index: int, layer: Any, head_dim: int) -> FusedLayer:
    """The layer's replacement.

    Raises:
        AttributeError, RuntimeError, TypeError, ValueError: it is of another kind.
    """
    if {name for name, _ in layer.named_children()} != _CHILDREN:
        raise ValueError(f"{type(layer).__name__} has other parts than {', '.join(sorted(_CHILDREN))}")
    weight = layer.input_layernorm.weight
    given = torch.randn(1, _PROBE_TOKENS, *weight.shape, generator=torch.Generator().manual_seed(index)).to(
        weight.dtype
    )
    turns = model.rotary_emb(given, position_ids=torch.arange(_PROBE_START, _PROBE_START + _PROBE_TOKENS)[None])
    expected, options = _results(layer, given, turns)
    for rotary in (True, False):
        fused = FusedLayer(layer, index, options, head_dim, rotary=rotary)
        found, _ = _results(fused, given, turns)
        if all(map(_near, found, expected)):
            return fused
    raise ValueError("it gives other results than its parts would")


def _results(layer: Any, given: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[list[Tensor], LayerOptions]:
    """Queries, keys, values, what the MLP makes of the input, and output."""
    probe = _Probe()
    with active(probe):
        out = layer(given, position_embeddings=turns, attention_mask=None)
    if probe.options is None:
        raise ValueError("attention of another kind")
    return [*probe.came, layer.mlp(given), out], probe.options


def _near(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    most = NEAR[expected.dtype] * float(expected.abs().max())
    return bool((found.float() - expected.float()).abs().max() <= most)
