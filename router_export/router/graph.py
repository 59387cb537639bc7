"""The ONNX graph of a router, the same computation as ``Router.forward``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from connector.errors import MissingExtraError
from connector.routing.bundle import INPUT, OUTPUTS, PROBE, seal
from connector.routing.metadata import METADATA_KEY, RouterMetadata

__all__ = ["IR_VERSION", "OPSET", "bundle_bytes"]

# Pinned: the same router must give the same bytes whatever version of onnx is installed, and old runtimes read it.
OPSET = 17
IR_VERSION = 8
_WEIGHTS = ("center", "spread", "projection", "head_embeddings", "prior", "kappa")


def bundle_bytes(
    arrays: Mapping[str, npt.NDArray[np.float32]],
    metadata: RouterMetadata,
    clip: float,
    probes: Sequence[npt.NDArray[np.float32]] = (),
) -> bytes:
    """A whole bundle file.

    Args:
        arrays: ``Router.arrays``.
        metadata: fits them.
        clip: largest standardized entry of an embedding.
        probes: float32 [layers, hidden], weights of each probe of the pool.

    Raises:
        MissingExtraError: ``onnx`` is not installed.
    """
    try:
        from onnx import checker, helper
    except ImportError:
        raise MissingExtraError("onnx", "train") from None
    types = helper.np_dtype_to_tensor_dtype
    floats, integers = types(np.dtype(np.float32)), types(np.dtype(np.int64))
    pool, most = len(metadata.pool), metadata.most_heads
    graph = helper.make_graph(
        _nodes(metadata.activation) + _constant_nodes(len(probes)),
        "router",
        [helper.make_tensor_value_info(INPUT, floats, ["batch", metadata.embedding.dimension])],
        [
            helper.make_tensor_value_info(OUTPUTS[0], floats, ["batch", pool]),
            helper.make_tensor_value_info(OUTPUTS[1], integers, ["batch", most]),
            helper.make_tensor_value_info(OUTPUTS[2], floats, ["batch"]),
            *(
                helper.make_tensor_value_info(PROBE.format(number), floats, list(weights.shape))
                for number, weights in enumerate(probes)
            ),
        ],
        _constants(arrays, pool, most, clip, probes),
    )
    model = helper.make_model(
        graph, producer_name="rh-connector", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    checker.check_model(model, full_check=True)
    return seal(model.SerializeToString(deterministic=True))


def _constants(
    arrays: Mapping[str, npt.NDArray[np.float32]],
    pool: int,
    most: int,
    clip: float,
    probes: Sequence[npt.NDArray[np.float32]],
) -> list[Any]:
    from onnx import numpy_helper

    best = np.zeros((1, most), dtype=np.float32)
    best[0, 0] = 1
    constants = {
        **{name: arrays[name] for name in _WEIGHTS},
        "clip_low": np.array(-clip, dtype=np.float64),
        "clip_high": np.array(clip, dtype=np.float64),
        "zero": np.zeros((), dtype=np.float32),
        "one": np.ones((), dtype=np.float32),
        "best_alone": best,
        "axis": np.array([1]),
        "start": np.array([0]),
        "next": np.array([1]),
        "pool": np.array([pool]),
        "end": np.array([pool + 1]),
        "most": np.array([most]),
        **{f"weights_{number}": weights for number, weights in enumerate(probes)},
    }
    return [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]


def _constant_nodes(probes: int) -> list[Any]:
    """What gives the weights of probes back: readers need no package that parses ONNX files."""
    from onnx import helper

    return [
        helper.make_node("Identity", [f"weights_{number}"], [PROBE.format(number)], name=PROBE.format(number))
        for number in range(probes)
    ]


def _nodes(activation: str) -> list[Any]:
    from onnx import TensorProto, helper

    nodes = []

    def add(kind: str, inputs: str, outputs: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs.split(), outputs.split(), name=outputs.split()[0], **attributes))

    # Logits in double precision, for the reason that router.py gives; the weights are stored as float32.
    for name in _WEIGHTS:
        add("Cast", name, f"{name}_double", to=TensorProto.DOUBLE)
    add("IsNaN", INPUT, "unknown")
    add("Where", f"unknown center {INPUT}", "known")
    add("Cast", "known", "known_double", to=TensorProto.DOUBLE)
    add("Sub", "known_double center_double", "centred")
    add("Div", "centred spread_double", "scaled")
    add("Clip", "scaled clip_low clip_high", "standard")
    add("MatMul", "standard projection_double", "projected")
    add("Transpose", "head_embeddings_double", "heads", perm=[1, 0])
    add("MatMul", "projected heads", "met")
    add("Mul", "met kappa_double", "residual")
    add("Add", "prior_double residual", "logits_double")
    add("Cast", "logits_double", "logits", to=TensorProto.FLOAT)
    add("Slice", "logits start pool axis", "members")
    # ONNX puts the lower index first where two are equal.
    add("TopK", "members most", "values selected", axis=1, largest=1, sorted=1)
    if activation == "relu":
        add("Relu", "values", "weights")
    else:
        add("Greater", "values zero", "above")
        add("Cast", "above", "on", to=TensorProto.FLOAT)
        add("ReduceSum", "on axis", "count", keepdims=1)
        add("Max", "count one", "divisor")
        add("Div", "on divisor", "weights")
    # A query always has a head: the best one, where no logit is above 0.
    add("Slice", "values start next axis", "best")
    add("LessOrEqual", "best zero", "none")
    add("Where", "none best_alone weights", "given")
    add("Shape", "members", "shape")
    add("ConstantOfShape", "shape", "nothing")
    add("ScatterElements", "nothing selected given", "gates", axis=1)
    add("Slice", "logits pool end axis", "last")
    add("Squeeze", "last axis", "first_stage_logit")
    add("Relu", "first_stage_logit", OUTPUTS[2])
    return nodes
