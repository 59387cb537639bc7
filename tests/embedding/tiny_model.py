"""An embedding model of one layer in ONNX: a token's state is a vector of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[PAD]", "[UNK]", "cats", "sleep", "hours", "bread", "bake", "day", "flour", "trading", "shares", "river")


def save_embedder(folder: Path, graph: str = "model.onnx", tokenizer: str = "tokenizer.json") -> Path:
    """Write graph and tokenizer into a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
    node = helper.make_node("Gather", ["vectors", "input_ids"], ["last_hidden_state"])
    made = helper.make_graph(
        [node],
        "embedder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 8])],
        [numpy_helper.from_array(vectors, "vectors")],
    )
    path = folder / graph
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / tokenizer))
    return folder
