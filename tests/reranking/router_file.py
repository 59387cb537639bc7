"""A router that ranks the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from connector.routing.bundle import seal, shipped_bundle
from connector.routing.metadata import METADATA_KEY

__all__ = ["router_file"]


def router_file(path: Path, **changes: Any) -> Path:
    """The shipped router, its probe turned round and counting twice as much.

    Args:
        path: the file.
        changes: of its metadata.
    """
    shipped = shipped_bundle("smollm2-135m", "solo")
    assert shipped is not None
    model = onnx.load_from_string(shipped.read_bytes())
    (weights,) = (own for own in model.graph.initializer if own.name == "weights_0")
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    told = {entry.key: entry.value for entry in model.metadata_props if entry.key != "digest"}
    metadata = json.loads(told[METADATA_KEY])
    metadata["absolute"]["means"] = [-mean for mean in metadata["absolute"]["means"]]
    metadata["static"]["gates"] = [2 * gate for gate in metadata["static"]["gates"]]
    metadata.update(changes)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**told, METADATA_KEY: json.dumps(metadata)})
    path.write_bytes(seal(model.SerializeToString()))
    return path
