"""What all exported graphs share, however they were made: inputs, files, and the graph of attention rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from connector.backbone.onnx_runtime.folder import ROWS, WEIGHTS
from connector.errors import MissingExtraError

__all__ = ["COMMON", "DOORS", "IR_VERSION", "OPSET", "onnx_library", "save", "store", "write_rows"]

COMMON = ("bias", "window_bias", "ids", "positions")
"""Inputs that every graph may take."""
DOORS = "hqkv"
"""Outputs of every graph, each followed by a point and its layer."""
OPSET = 23
"""The first with an operator for RMS norms and for rotary embeddings."""
IR_VERSION = 10
# Smaller tensors stay in the graphs. Larger ones begin where memory pages may begin.
_SMALL = 1024
_PAGE = 4096


def onnx_library() -> Any:
    """The package ``onnx``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError("onnx", "cpu") from None
    return onnx


def store(onnx: Any, name: str, array: npt.NDArray[Any], weights: IO[bytes]) -> Any:
    """A constant of a graph; a large one's numbers go to the end of the common file of weights.

    Args:
        onnx: see ``onnx_library``.
        name: of the constant.
        array: its numbers, of any shape.
        weights: the common file, open for writing.
    """
    # Not ascontiguousarray, which makes lists of single numbers.
    data = np.asarray(array, order="C")
    if data.nbytes < _SMALL:
        return onnx.numpy_helper.from_array(data, name)
    weights.write(b"\0" * (-weights.tell() % _PAGE))
    place = {"location": WEIGHTS, "offset": weights.tell(), "length": data.nbytes}
    weights.write(data.data)
    kept = onnx.TensorProto(
        name=name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(data.dtype),
        dims=data.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in place.items():
        entry = kept.external_data.add()
        entry.key, entry.value = key, str(value)
    return kept


def write_rows(folder: Path, softcap: float | None) -> None:
    """Write the graph of ``OnnxGraphs.rows``: softmax over all keys, averaged over the tail's tokens.

    Args:
        folder: where it goes.
        softcap: of the logits, or None.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    onnx = onnx_library()
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
    save(onnx, graph, folder / ROWS)


def save(
    onnx: Any, graph: Any, path: Path, opsets: Iterable[Any] | None = None, ir_version: int = IR_VERSION
) -> None:
    """Write a graph; the same graph gives the same bytes."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
    opsets = [onnx.helper.make_opsetid("", OPSET)] if opsets is None else list(opsets)
    model = onnx.helper.make_model(graph, producer_name="rh-connector", opset_imports=opsets, ir_version=ir_version)
    path.write_bytes(model.SerializeToString(deterministic=True))
