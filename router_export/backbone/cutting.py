"""One traced graph, cut into a graph a layer that share one file of weights; and the graph of attention rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connector.backbone.onnx_runtime.folder import ROWS, WEIGHTS, graph_name
from connector.errors import BackboneError, MissingExtraError

__all__ = ["COMMON", "cut", "write_rows"]

COMMON = ("bias", "window_bias", "ids", "positions")
"""Inputs that every graph may take."""
_DOORS = "hqkv"


def cut(whole: Path, folder: Path, layers: int) -> None:
    """Write the graphs ``layer-00.onnx`` … and move the weights to ``weights.bin``.

    Graph i ends with ``h.i q.i k.i v.i``, in this order; what it needs of graph i - 1, it takes as inputs.

    Raises:
        BackboneError: the traced graph has no door where one should be.
    """
    onnx = _onnx()
    model = onnx.load(str(whole), load_external_data=False)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    known = {value.name: value for part in (graph.input, graph.output, graph.value_info) for value in part}
    given = {value.name for value in graph.input}
    for layer in range(layers):
        ends = [f"{name}.{layer}" for name in _DOORS]
        doors = {f"{name}.{layer - 1}" for name in _DOORS} if layer else set()
        nodes, inputs, constants = _behind(ends, doors | given, makers, tensors)
        order = [node for node in graph.node if id(node) in nodes]
        if not inputs <= {*COMMON, *doors, f"keys.{layer - 1}", f"values.{layer - 1}"}:
            raise BackboneError(
                f"this family cannot be exported: layer {layer} needs {', '.join(sorted(inputs - doors))}; "
                "set backbone.runtime to torch"
            )
        part = onnx.helper.make_graph(
            [_plain(onnx, node) for node in order],
            f"layer {layer}",
            [known[name] for name in sorted(inputs)],
            [known[name] for name in ends],
            [_moved(tensors[name]) for name in sorted(constants)],
        )
        _save(onnx, part, model.opset_import, model.ir_version, folder / graph_name(layer))
    whole.with_name(f"{whole.name}.data").rename(folder / WEIGHTS)


def write_rows(folder: Path, softcap: float | None, opset: int, ir_version: int = 10) -> None:
    """The graph of ``OnnxGraphs.rows``: softmax over all keys, averaged over the tail's tokens."""
    onnx = _onnx()
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["keys"], ["across"], perm=[1, 0]),
        helper.make_node("MatMul", ["q", "across"], ["logits"]),
    ]
    constants, logits = [], "logits"
    if softcap is not None:
        constants.append(helper.make_tensor("cap", floats, [], [softcap]))
        nodes += [
            helper.make_node("Div", ["logits", "cap"], ["small"]),
            helper.make_node("Tanh", ["small"], ["bent"]),
            helper.make_node("Mul", ["bent", "cap"], ["capped"]),
        ]
        logits = "capped"
    nodes += [
        helper.make_node("Add", [logits, "bias"], ["biased"]),
        helper.make_node("Softmax", ["biased"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["rows", "weights"], ["averaged"]),
    ]
    shapes: dict[str, list[str]] = {
        "q": ["heads", "tokens", "d"],
        "keys": ["keys", "d"],
        "bias": ["tokens", "keys"],
        "rows": ["groups", "tokens"],
    }
    inputs = [helper.make_tensor_value_info(name, floats, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("averaged", floats, ["heads", "groups", "keys"])
    graph = helper.make_graph(nodes, "rows", inputs, [output], constants)
    _save(onnx, graph, [helper.make_opsetid("", opset)], ir_version, folder / ROWS)


def _behind(
    ends: Sequence[str], stops: set[str], makers: dict[str, Any], tensors: dict[str, Any]
) -> tuple[set[int], set[str], set[str]]:
    """What some tensors are made of: ids of nodes, inputs at which the way back stops, constants."""
    nodes: set[int] = set()
    inputs: set[str] = set()
    constants: set[str] = set()
    waiting = list(ends)
    while waiting:
        name = waiting.pop()
        if name in stops:
            inputs.add(name)
        elif name in tensors:
            constants.add(name)
        elif name in makers and id(makers[name]) not in nodes:
            nodes.add(id(makers[name]))
            waiting.extend(one for one in makers[name].input if one)
    return nodes, inputs, constants


def _plain(onnx: Any, node: Any) -> Any:
    """The node without what the exporter says about its origin, which is most of the file and names our folders."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.metadata_props[:]
    copy.doc_string = ""
    return copy


def _moved(tensor: Any) -> Any:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = WEIGHTS
    return tensor


def _save(onnx: Any, graph: Any, opsets: Any, ir_version: int, path: Path) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
    model = onnx.helper.make_model(
        graph, producer_name="rh-connector", opset_imports=list(opsets), ir_version=ir_version
    )
    path.write_bytes(model.SerializeToString(deterministic=True))


def _onnx() -> Any:
    try:
        import onnx
        import onnx.helper
    except ImportError:
        raise MissingExtraError("onnx", "export") from None
    return onnx
