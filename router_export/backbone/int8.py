"""Exported graphs with int8 weights: products of integers, by ONNX Runtime's dynamic quantization.

Weights have 7 bits and a scale for each output (8 bits overflow on processors with AVX2 but without VNNI),
activations 8 bits and one scale a run: that is why documents are encoded one a run. The products behind the MLP's
widest vectors keep float32 weights: their inputs have outliers that no common scale fits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connector.backbone.onnx_runtime.folder import WEIGHTS, graph_name
from connector.errors import MissingExtraError
from router_export.backbone.graph_files import onnx_library, store

__all__ = ["quantize"]


def quantize(folder: Path, layers: int, widest: int) -> None:
    """Rewrite the graphs in a folder, and the one file of their weights.

    Args:
        folder: of float32 graphs, see ``connector.backbone.onnx_runtime.folder``.
        layers: how many.
        widest: size of the vectors inside of the MLP; products that take these stay as they are.

    Raises:
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    onnx = onnx_library()
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", "cpu") from None
    made = folder / f"{WEIGHTS}.int8"
    with tempfile.TemporaryDirectory(prefix="rh-int8-") as scratch, made.open("wb") as weights:
        for layer in range(layers):
            path = folder / graph_name(layer)
            whole = onnx.load(str(path))
            shapes = {tensor.name: list(tensor.dims) for tensor in whole.graph.initializer}
            wide = [
                node.name
                for node in whole.graph.node
                if node.op_type == "MatMul" and shapes.get(node.input[1], [0])[0] == widest
            ]
            small = Path(scratch, path.name)
            with _without_advice():
                quantize_dynamic(
                    whole,
                    small,
                    op_types_to_quantize=["MatMul"],
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=wide,
                    # Keys and values come from outside: only products with weights are meant.
                    extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
                )
            quantized = onnx.load(str(small))
            for tensor in quantized.graph.initializer:
                _move(onnx, tensor, weights)
            quantized.producer_name, quantized.producer_version = "rh-connector", ""
            path.write_bytes(quantized.SerializeToString(deterministic=True))
            small.unlink()
    made.replace(folder / WEIGHTS)


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime advises to simplify each graph first, which the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _move(onnx: Any, tensor: Any, weights: Any) -> None:
    """Put a tensor's numbers into the common file."""
    tensor.CopyFrom(store(onnx, tensor.name, onnx.numpy_helper.to_array(tensor), weights))
