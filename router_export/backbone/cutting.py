"""One traced graph, cut into a graph a layer that share one file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connector.backbone.onnx_runtime.folder import WEIGHTS, graph_name
from connector.errors import BackboneError
from router_export.backbone.graph_files import COMMON, DOORS, onnx_library, save

__all__ = ["cut"]


def cut(whole: Path, folder: Path, layers: int) -> None:
    """Write the graphs ``layer-00.onnx`` … and move the weights to ``weights.bin``.

    Graph i ends with ``h.i q.i k.i v.i``, in this order; what it needs of graph i - 1, it takes as inputs.

    Raises:
        BackboneError: the traced graph has no door where one should be.
    """
    onnx = onnx_library()
    model = onnx.load(str(whole), load_external_data=False)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    known = {value.name: value for part in (graph.input, graph.output, graph.value_info) for value in part}
    given = {value.name for value in graph.input}
    for layer in range(layers):
        ends = [f"{name}.{layer}" for name in DOORS]
        doors = {f"{name}.{layer - 1}" for name in DOORS} if layer else set()
        nodes, inputs, constants = _behind(ends, doors | given, makers, tensors)
        order = [node for node in graph.node if id(node) in nodes]
        odd = inputs - {*COMMON, *doors, f"keys.{layer - 1}", f"values.{layer - 1}"}
        odd |= set(ends) - known.keys()
        if odd:
            raise BackboneError(
                f"this family cannot be exported: layer {layer} needs {', '.join(sorted(odd))}; "
                "set backbone.runtime to torch"
            )
        part = onnx.helper.make_graph(
            [_plain(onnx, node) for node in order],
            f"layer {layer}",
            [known[name] for name in sorted(inputs)],
            [known[name] for name in ends],
            [_moved(tensors[name]) for name in sorted(constants)],
        )
        save(onnx, part, folder / graph_name(layer), model.opset_import, model.ir_version)
    whole.with_name(f"{whole.name}.data").rename(folder / WEIGHTS)


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
    """The node without what the exporter says about its origin, which is most of the file and names folders."""
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
