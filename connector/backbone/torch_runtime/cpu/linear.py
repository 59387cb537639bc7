"""Linear layers whose weights are laid out once for the CPU's matrix products, instead of in every product.

oneDNN multiplies blocks of a weight matrix, and torch lays a plain weight out anew (or calls a slower library) each
time. With the layout made at the start, products of 48 tokens take .8 of the time in bfloat16 and half in float32, of
180 tokens .9 and half (SmolLM2-135M's shapes, AMD EPYC with AVX-512 and bf16, two threads). A token's sums are the
same for many numbers of tokens (see ``batch_plan``), or those of a block are: passages may share a product without
changing a bit of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from connector.backbone.torch_runtime.cpu.operations import missing_operations

__all__ = ["NEAR", "PackedLinear", "pack_linears", "why_not_packed"]

# Tokens that the layout is chosen for.
_TOKENS = 256
NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""By number format, how far sums in another order may lie apart, of the largest."""


class PackedLinear(torch.nn.Module):
    """``torch.nn.Linear`` for inference on a CPU.

    Args:
        linear: whose weight is taken, [outputs, inputs]; it can be let go of afterwards.

    Attributes:
        block: products are of so many tokens each, filled up with zeros; None: of all tokens at once.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.block: int | None = None
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TOKENS)
        self.bias, self.dtype = linear.bias, linear.weight.dtype

    @classmethod
    def joined(cls, layers: Sequence[PackedLinear]) -> PackedLinear:
        """Layers of the same inputs as one, their outputs one behind the other.

        Raises:
            AttributeError: only some of them have a bias.
        """
        if len({layer.bias is None for layer in layers}) > 1:
            raise AttributeError("only some layers have a bias")
        weight = torch.cat([layer._packed.to_dense() for layer in layers])
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        if layers[0].bias is not None:
            linear.bias = torch.nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
        return cls(linear)

    def forward(self, inputs: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """[..., outputs] from [..., inputs], plus ``added`` [..., outputs]."""
        return self._plain(inputs) if added is None else self._with(inputs, added, "add")

    def silu(self, inputs: torch.Tensor) -> torch.Tensor:
        """``silu(layer(x))``, the activation done while oneDNN has the sums at hand: one rounding instead of two."""
        return self._plain(inputs, "swish")

    def times(self, inputs: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """``layer(x) * factors`` [..., outputs], likewise."""
        return self._with(inputs, factors, "mul")

    def _plain(self, inputs: torch.Tensor, activation: str = "none") -> torch.Tensor:
        def product(rows: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, self._packed, self.bias, activation, [], ""
            )
            return found

        return self._in_blocks(product, inputs)

    def _with(self, inputs: torch.Tensor, other: torch.Tensor, how: str) -> torch.Tensor:
        def product(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                rows, others, self._packed, self.bias, how
            )
            return found

        return self._in_blocks(product, inputs, other)

    def _in_blocks(self, product: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
        """The product of tensors [..., numbers] with the same tokens."""
        if self.block is None:
            return product(*given)
        tokens = given[0].numel() // given[0].shape[-1]
        short = -tokens % self.block
        rows = [own.reshape(tokens, own.shape[-1]) for own in given]
        if short:
            rows = [torch.nn.functional.pad(own, (0, 0, 0, short)) for own in rows]
        blocks = zip(*(torch.split(own, self.block) for own in rows), strict=True)
        found = torch.cat([product(*block) for block in blocks])[:tokens]
        return found.view(*given[0].shape[:-1], found.shape[-1])


@torch.inference_mode()
def pack_linears(module: torch.nn.Module) -> bool:
    """Replace the linear layers of a model on a CPU, those whose number format the layout knows.

    Returns:
        Whether there were any, and this torch and CPU can do it (else see ``why_not_packed``); otherwise the model is
        as it was.
    """
    found = False
    for name, child in list(module.named_children()):
        if type(child) is torch.nn.Linear:
            if child.weight.device.type == "cpu" and why_not_packed(child.weight.dtype) is None:
                setattr(module, name, PackedLinear(child))
                found = True
        else:
            found |= pack_linears(child)
    return found


def why_not_packed(dtype: torch.dtype) -> str | None:
    """Why weights of a number format are not packed with this torch on this CPU; None: they are."""
    if dtype not in NEAR:
        return f"oneDNN's layout is used for {' and '.join(map(_name, NEAR))}, not for {_name(dtype)}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch has no oneDNN"
    missing = [name for name in missing_operations() if name.startswith("ops.mkldnn.")]
    if missing:
        return f"torch {torch.__version__} lacks {', '.join(f'torch.{name}' for name in missing)}"
    return _tried(dtype)


@cache
def _tried(dtype: torch.dtype) -> str | None:
    """The operations are made for torch's compiler: they may be there, and do something else than they did."""
    try:
        layer = torch.nn.Linear(8, 4, dtype=dtype).requires_grad_(False)
        # Of random weights, one draw in 3,000 lies on the edge of rounding.
        layer.weight.copy_(torch.linspace(-0.35, 0.3, 32).view(4, 8))
        layer.bias.copy_(torch.linspace(-0.2, 0.3, 4))
        inputs = torch.ones(2, 8, dtype=dtype)
        packed, plain = PackedLinear(layer), layer(inputs)
        silu = torch.nn.functional.silu(plain)
        pairs = ((packed(inputs), plain), (packed.times(inputs, packed.silu(inputs)), plain * silu))
        if all(torch.allclose(found, expected, atol=NEAR[dtype]) for found, expected in pairs):
            return None
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"packed {_name(dtype)} products fail: {' '.join(str(error).split())[:120]}"
    return f"packed {_name(dtype)} products are not those of torch"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
