"""Writing a backbone's graphs: traced, cut, run against torch, and only then put in their place."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.prompt.tail import Tail, TokenIds
from connector.backbone.runtime import Needs, ReadRequest, Runtime
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError, MissingExtraError
from connector.sections import Layout

__all__ = ["EMBEDDING_TOLERANCE", "INT8_TOLERANCE", "TOLERANCE", "ExportedGraphs", "export_backbone"]

TOLERANCE = 1e-5
"""Largest difference of an attention weight from torch's."""
EMBEDDING_TOLERANCE = 1e-4
"""Of a number of a query embedding, as part of the layer's largest one.

One layer can add a direction that dwarfs all else (SmolLM2-135M's thirteenth, for made-up tokens): there
float32 itself is 1.3e-5 to 1.8e-5 from float64 in torch, by the order of its sums.
"""
INT8_TOLERANCE = 0.25
"""Of the states behind int8 weights: length of the difference from torch's, as part of their own length.

SmolLM2-135M has .09 at its 20th layer. Weights of 8 bits instead of 7 would overflow on some processors, and keys be
off by .88 (see ``backbone_int8``).
"""
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class ExportedGraphs:
    """A backbone that was written.

    Attributes:
        folder: where it is.
        exported: what its record says.
        rows_difference: largest absolute difference of an attention row from torch's, over the layouts.
        embedding_difference: of a query embedding, as a part of its largest entry.
        bytes: of all files.
    """

    folder: Path
    exported: ExportedBackbone
    rows_difference: float
    embedding_difference: float
    bytes: int


def export_backbone(
    checkpoint: Checkpoint,
    folder: Path,
    layers: int | None = None,
    precision: Literal["float32", "int8"] = "float32",
) -> ExportedGraphs:
    """Write the first layers of a backbone as graphs that were found equal to it; an older export is replaced.

    Args:
        checkpoint: the LLM.
        folder: where the files go.
        layers: how many; None: all.
        precision: of the weights.

    Raises:
        MissingExtraError: torch, onnx, onnxscript or ONNX Runtime is not installed.
        BackboneError: the family cannot be exported, the graphs do not give torch's numbers, the folder holds
            something else, or it cannot be written. An older export stays then.
    """
    config = checkpoint.config()
    config = config.get("text_config") or config
    depth = int(config["num_hidden_layers"])
    layers = depth if layers is None else layers
    if not 1 <= layers <= depth:
        raise BackboneError(f"export: --layers {layers}: {checkpoint.name} has {depth} layers; give 1 to {depth}")
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackboneError(f"{folder} is no exported backbone; name an empty or new folder with --out")
    work = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        made = _write(checkpoint, work, layers, precision, int(config.get("intermediate_size") or 0))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    except OSError as error:
        raise BackboneError(f"cannot write the exported backbone {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    exported, rows, embedding = made
    return ExportedGraphs(folder, exported, rows, embedding, sum(exported.files.values()))


def _write(
    checkpoint: Checkpoint, work: Path, layers: int, precision: Literal["float32", "int8"], widest: int
) -> tuple[ExportedBackbone, float, float]:
    try:
        from connector.backbone.torch_runtime.runtime import TorchRuntime
        from router_export.backbone.cutting import cut, write_rows
        from router_export.backbone.int8 import quantize
        from router_export.backbone.tracing import OPSET, first_layers, trace
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "export") from None
    whole = work / "whole.onnx"
    decoder = first_layers(checkpoint.path, layers)
    traced = trace(decoder, whole)
    # Before the weights are loaded once more.
    del decoder
    cut(whole, work, layers)
    write_rows(work, traced.softcap, OPSET)
    whole.unlink()
    if precision == "int8":
        quantize(work, layers, widest)
    for name in _TEXT_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, work / name)
    torch_runtime = TorchRuntime.load(checkpoint.path, device="cpu", dtype="float32", cache_dtype="float32")
    shape = torch_runtime.shape
    exported = ExportedBackbone(
        name=checkpoint.name,
        digest=checkpoint.digest(),
        shape=shape,
        layers=layers,
        dtype=precision,
        opset=OPSET,
        scaling=traced.scaling,
        windows=traced.windows,
        softcap=traced.softcap,
        files={path.name: path.stat().st_size for path in sorted(work.iterdir())},
    )
    exported.write(work)
    tokens = traced.vocabulary
    onnx_runtime = OnnxRuntime.load(work, cache_dtype="float32")
    rows, embedding, states = _compare(torch_runtime, onnx_runtime, layers, tokens)
    limits = [("attention", rows, TOLERANCE), ("a query embedding", embedding, EMBEDDING_TOLERANCE)]
    if precision == "int8":
        limits = [("the length of the states", states, INT8_TOLERANCE)]
    for what, difference, most in limits:
        if not difference <= most:
            raise BackboneError(
                f"the export of {shape.family} is not the backbone: {what} differs from torch's by {difference:.2g}, "
                f"more than {most:g}; nothing was written; set backbone.runtime to torch"
            )
    return exported, rows, embedding


def _compare(theirs: Runtime, ours: Runtime, layers: int, vocabulary: int) -> tuple[float, float, float]:
    """Largest differences of rows, of embeddings, and of the length of a layer's embedding.

    On made-up token ids, at shapes other than those traced.
    """
    random = np.random.default_rng(0)

    def ids(count: int) -> TokenIds:
        return random.integers(3, vocabulary, count).astype(np.int32)

    prefix, documents = tuple(ids(9).tolist()), [ids(count) for count in (37, 1, 120, 12)]
    shared, variants = ids(6), (ids(8), ids(3))
    total = len(shared) + sum(map(len, variants))
    position = len(prefix) + max(map(len, documents))
    tail = Tail.of(shared, variants, np.eye(total, dtype=np.float32), position, len(prefix))
    needs = Needs(tuple((layer, head) for layer in range(layers) for head in range(theirs.shape.heads)))
    largest = 0.0
    layouts: tuple[Layout, ...] = ("block", "late")
    for layout in layouts:
        rows = []
        for runtime in (theirs, ours):
            encoded = list(runtime.encode(prefix, documents, needs, layout=layout))
            rows += [found.rows for found in runtime.read(prefix, [ReadRequest(tail, encoded, needs)], layout=layout)]
        largest = max(largest, float(np.abs(rows[0] - rows[1]).max()))
    embeddings = [runtime.embed(documents[0], range(layers), 2) for runtime in (theirs, ours)]
    scale = np.abs(embeddings[0]).max(axis=(1, 2), keepdims=True)
    difference = embeddings[0] - embeddings[1]
    lengths = [np.linalg.norm(each, axis=2) for each in (difference, embeddings[0])]
    return largest, float((np.abs(difference) / scale).max()), float((lengths[0] / lengths[1]).max())
