"""A graph a layer, written node by node: what is asked of every family, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from connector.backbone.onnx_runtime.folder import WEIGHTS, graph_name
from connector.checkpoints.weights import Array, Weights
from connector.errors import BackboneError
from router_export.backbone.decoders import Decoder
from router_export.backbone.graph_files import DOORS, onnx_library, save, store

__all__ = ["write_layers"]

_EMBEDDINGS = "embed_tokens.weight"


def write_layers(
    weights: Weights,
    decoder: Decoder,
    folder: Path,
    layers: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Write the graphs ``layer-00.onnx`` … and ``weights.bin``; weights are read one layer at a time.

    Graph i ends with ``h.i q.i k.i v.i``, in this order; what it needs of graph i - 1, it takes as inputs: see
    ``connector.backbone.onnx_runtime.graphs``.

    Raises:
        MissingExtraError: onnx is not installed.
        BackboneError: the weights do not fit the config.
    """
    onnx = onnx_library()
    found = [name for name in weights.names if name.endswith(f".{_EMBEDDINGS}") or name == _EMBEDDINGS]
    if len(found) != 1:
        raise BackboneError(
            f"the weights hold {len(found)} tensors {_EMBEDDINGS}, not one; set backbone.runtime to torch"
        )
    prefix = found[0].removesuffix(_EMBEDDINGS)
    with (folder / WEIGHTS).open("wb") as file:
        for layer in range(layers):
            graph = _LayerGraph(onnx, weights, decoder, prefix, layer, file)
            save(onnx, graph.build(), folder / graph_name(layer))
            progress((layer + 1) / layers)


class _LayerGraph:
    """The second half of one layer, from its attention on, and the first half of the next."""

    def __init__(
        self, onnx: Any, weights: Weights, decoder: Decoder, prefix: str, layer: int, file: IO[bytes]
    ) -> None:
        self._onnx, self._weights, self._decoder = onnx, weights, decoder
        self._prefix, self._layer, self._file = prefix, layer, file
        self._names = frozenset(weights.names)
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def build(self) -> Any:
        layer, shape = self._layer, self._decoder.shape
        hidden = self._embedded() if layer == 0 else self._behind_attention(layer - 1)
        self._node("Identity", [hidden], f"h.{layer}")
        normed = self._norm(f"h.{layer}", f"layers.{layer}.input_layernorm.weight")
        turned = self._angles()
        for door, heads in zip("qkv", (shape.heads, shape.kv_heads, shape.kv_heads), strict=True):
            name = f"layers.{layer}.self_attn.{door}"
            split = self._node(
                "Reshape",
                [self._product(normed, f"{name}_proj"), self._ints(f"by_head.{door}", (0, 0, heads, shape.head_dim))],
            )
            if f"{self._prefix}{name}_norm.weight" in self._names:
                split = self._norm(split, f"{name}_norm.weight")
            apart = self._node("Transpose", [split], perm=[0, 2, 1, 3])
            if door != "v":
                apart = self._node("RotaryEmbedding", [apart, *turned], interleaved=0, num_heads=heads)
            self._node("Squeeze", [apart, self._ints("first", (0,))], f"{door}.{layer}")
        helper = self._onnx.helper
        return helper.make_graph(
            self._nodes, f"layer {layer}", self._inputs(), self._outputs(), list(self._constants.values())
        )

    def _embedded(self) -> str:
        batch = self._node("Reshape", ["ids", self._ints("one", (1, -1))])
        table = self._constant(self._prefix + _EMBEDDINGS)
        hidden = self._node("Gather", [table, batch], axis=0)
        if not self._decoder.gemma:
            return hidden
        factor = np.asarray(self._decoder.shape.hidden**0.5, dtype=np.float32)
        return self._node("Mul", [hidden, self._number("embedding_scale", factor)])

    def _behind_attention(self, layer: int) -> str:
        """The states behind a layer: attention over all that is seen, and the MLP."""
        own = f"layers.{layer}"
        attended = self._product(self._attention(layer), f"{own}.self_attn.o_proj")
        gemma = self._decoder.gemma
        if gemma:
            attended = self._norm(attended, f"{own}.post_attention_layernorm.weight")
        middle = self._node("Add", [f"h.{layer}", attended])
        before = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        normed = self._norm(middle, f"{own}.{before}.weight")
        gate = self._product(normed, f"{own}.mlp.gate_proj")
        if self._decoder.activation == "silu":
            gate = self._node("Mul", [gate, self._node("Sigmoid", [gate])])
        else:
            gate = self._node("Gelu", [gate], approximate="tanh")
        wide = self._node("Mul", [gate, self._product(normed, f"{own}.mlp.up_proj")])
        out = self._product(wide, f"{own}.mlp.down_proj")
        if gemma:
            out = self._norm(out, f"{own}.post_feedforward_layernorm.weight")
        return self._node("Add", [middle, out])

    def _attention(self, layer: int) -> str:
        """[1, tokens, heads x d]: each document's over its own keys. Queries of a group share keys, not repeated."""
        decoder, shape = self._decoder, self._decoder.shape
        groups = shape.heads // shape.kv_heads
        scaled = self._node("Mul", [f"q.{layer}", self._number("scaling", np.float32(decoder.scaling))])
        bias = self._bias(layer)
        each = self._node("Shape", [bias], start=0, end=2)
        sizes = [self._ints("by_group", (shape.kv_heads, groups)), each, self._ints("dim", (shape.head_dim,))]
        apart = self._node("Reshape", [scaled, self._node("Concat", sizes, axis=0)])
        apart = self._node("Transpose", [apart], perm=[2, 0, 1, 3, 4])
        grouped = self._node("Reshape", [apart, self._ints("grouped", (0, 0, -1, shape.head_dim))])
        logits = self._node("MatMul", [grouped, self._node("Transpose", [f"keys.{layer}"], perm=[0, 1, 3, 2])])
        together = self._node("Shape", [logits])
        rows = self._node("Shape", [bias], start=1, end=2)
        heads = [self._ints("heads", (0, shape.heads)), rows, self._ints("rest", (-1,))]
        by_head = self._node("Concat", heads, axis=0)
        logits = self._node("Reshape", [logits, by_head])
        if decoder.softcap is not None:
            cap = self._number("softcap", np.float32(decoder.softcap))
            logits = self._node("Mul", [self._node("Tanh", [self._node("Div", [logits, cap])]), cap])
        hidden = self._node("Unsqueeze", [bias, self._ints("second", (1,))])
        seen = self._node("Softmax", [self._node("Add", [logits, hidden])], axis=-1)
        values = self._node("MatMul", [self._node("Reshape", [seen, together]), f"values.{layer}"])
        values = self._node("Reshape", [values, by_head])
        values = self._node("Transpose", [values], perm=[0, 2, 1, 3])
        return self._node("Reshape", [values, self._ints("flat", (1, -1, shape.heads * shape.head_dim))])

    def _bias(self, layer: int) -> str:
        return "bias" if self._decoder.windows[layer] is None else "window_bias"

    def _angles(self) -> list[str]:
        """Cosines and sines of the rotary embedding, [1, tokens, d / 2]."""
        steps = self._node("Reshape", ["positions", self._ints("column", (1, -1, 1))])
        steps = self._node("Cast", [steps], to=self._onnx.TensorProto.FLOAT)
        angles = self._node("Mul", [steps, self._number("frequencies", self._decoder.frequencies[self._layer])])
        return [self._node("Cos", [angles]), self._node("Sin", [angles])]

    def _norm(self, states: str, weight: str) -> str:
        add = np.float32(1 if self._decoder.gemma else 0)
        scale = self._number(weight, self._weights.tensor(self._prefix + weight) + add)
        return self._node("RMSNormalization", [states, scale], axis=-1, epsilon=self._decoder.epsilon)

    def _product(self, states: str, name: str) -> str:
        """States times a weight, plus its bias where there is one."""
        out = self._node("MatMul", [states, self._constant(f"{self._prefix}{name}.weight", turned=True)])
        bias = f"{self._prefix}{name}.bias"
        return self._node("Add", [out, self._constant(bias)]) if bias in self._names else out

    def _constant(self, name: str, *, turned: bool = False) -> str:
        array = self._weights.tensor(name)
        return self._number(name.removeprefix(self._prefix), array.T if turned else array)

    def _number(self, name: str, array: Array | np.float32) -> str:
        if name not in self._constants:
            self._constants[name] = store(self._onnx, name, np.asarray(array, dtype=np.float32), self._file)
        return name

    def _ints(self, name: str, values: Sequence[int]) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _inputs(self) -> list[Any]:
        layer, shape = self._layer, self._decoder.shape
        whole = self._onnx.TensorProto.INT64
        each = ["documents", "each"]
        values = [self._value("positions", each, whole)]
        if layer == 0:
            return [self._value("ids", each, whole), *values]
        seen: list[int | str] = ["documents", shape.kv_heads, "keys", shape.head_dim]
        return [
            self._value(self._bias(layer - 1), ["documents", "each", "keys"]),
            self._value(f"h.{layer - 1}", [1, "tokens", shape.hidden]),
            self._value(f"keys.{layer - 1}", seen),
            *values,
            self._value(f"q.{layer - 1}", [shape.heads, "tokens", shape.head_dim]),
            self._value(f"values.{layer - 1}", seen),
        ]

    def _outputs(self) -> list[Any]:
        shape = self._decoder.shape
        states: list[int | str] = [1, "tokens", shape.hidden]
        by_head: list[list[int | str]] = [
            [heads, "tokens", shape.head_dim] for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
        ]
        return [
            self._value(f"{door}.{self._layer}", sizes) for door, sizes in zip(DOORS, (states, *by_head), strict=True)
        ]

    def _value(self, name: str, sizes: Sequence[int | str], kind: int | None = None) -> Any:
        kind = self._onnx.TensorProto.FLOAT if kind is None else kind
        return self._onnx.helper.make_tensor_value_info(name, kind, list(sizes))
