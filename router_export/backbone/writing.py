"""Writing a backbone's graphs: by hand or traced, tried, and only then put in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.prompt.tail import Tail, TokenIds
from connector.backbone.runtime import Needs, ReadRequest, Runtime, torch_is_installed
from connector.checkpoints.file_hashes import file_hashes
from connector.checkpoints.shape import BackboneShape, decoder_config
from connector.checkpoints.weights import Array
from connector.errors import BackboneError, MissingExtraError
from connector.sections import Layout
from connector.storage_faults import storage_mend
from router_export.backbone.decoders import Decoder, UnwrittenError
from router_export.backbone.graph_files import OPSET, write_rows
from router_export.backbone.layer_graphs import write_layers
from router_export.backbone.sources import Source

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
off by .88 (see ``router_export.backbone.int8``).
"""


@dataclass(frozen=True, slots=True)
class ExportedGraphs:
    """A backbone that was written.

    Attributes:
        folder: where it is.
        exported: what its record says.
        bytes: of all files.
        rows_difference: largest absolute difference of an attention row from torch's, over the layouts; None: torch
            is not installed, or was not asked.
        embedding_difference: of a query embedding, as a part of its largest entry; None likewise.
    """

    folder: Path
    exported: ExportedBackbone
    bytes: int
    rows_difference: float | None = None
    embedding_difference: float | None = None


class _Traits(NamedTuple):
    scaling: tuple[float, ...]
    windows: tuple[int | None, ...]
    softcap: float | None
    vocabulary: int


def export_backbone(
    source: Source,
    folder: Path,
    layers: int | None = None,
    precision: Literal["float32", "int8"] = "float32",
    *,
    compare: bool = True,
    progress: Callable[[float], None] = lambda fraction: None,
) -> ExportedGraphs:
    """Write the first layers of a backbone as graphs that were tried; an older export is replaced.

    Families of ``WRITTEN`` need no torch. Others are traced by it.

    Args:
        source: the LLM.
        folder: where the files go.
        layers: how many; None: all.
        precision: of the weights.
        compare: with torch, where it is installed and the source is a checkpoint; else the numbers must be finite.
        progress: told what part is written.

    Raises:
        MissingExtraError: onnx or ONNX Runtime is not installed; or torch or onnxscript, which the family needs.
        BackboneError: the family cannot be exported, the graphs do not give torch's numbers, the folder holds
            something else, or it cannot be written. An older export stays, unless the last step, which removes it and
            names the new one, fails.
    """
    shape = BackboneShape.from_config(source.weights.config, source.name)
    folder, layers = folder.absolute(), shape.layers if layers is None else layers
    if not 1 <= layers <= shape.layers:
        raise BackboneError(
            f"export: --layers {layers}: {source.name} has {shape.layers} layers; give 1 to {shape.layers}"
        )
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackboneError(f"{folder} is no exported backbone; name an empty or new folder with --out")
    work = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        exported, vocabulary = _write(source, shape, work, layers, progress)
        comparing = compare and source.checkpoint is not None and torch_is_installed()
        states = None if comparing else _states(work, exported, vocabulary)
        if precision == "int8":
            exported = _rounded(source, work, exported)
        rows: float | None = None
        embedding: float | None = None
        if states is None:
            rows, embedding = _compared(source, work, exported, vocabulary)
        elif precision == "int8":
            apart = _apart(states, _states(work, exported, vocabulary))
            _check("the length of the states", apart, exported, INT8_TOLERANCE)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    except OSError as error:
        mend = storage_mend(error, "name another folder with --out")
        raise BackboneError(
            f"cannot write the exported backbone {folder}: {error.strerror or error}; {mend}"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ExportedGraphs(folder, exported, sum(exported.files.values()), rows, embedding)


def _write(
    source: Source,
    shape: BackboneShape,
    work: Path,
    layers: int,
    progress: Callable[[float], None],
) -> tuple[ExportedBackbone, int]:
    """The graphs with float32 weights, and the number of token ids."""
    try:
        decoder = Decoder.of(source.weights.config, source.name)
        write_layers(source.weights, decoder, work, layers, progress)
        every = (decoder.scaling,) * layers
        traits = _Traits(every, decoder.windows[:layers], decoder.softcap, decoder.vocabulary)
    except UnwrittenError as reason:
        traits = _traced(source, work, layers, reason)
    write_rows(work, traits.softcap)
    source.write_texts(work)
    exported = ExportedBackbone(
        name=source.name,
        digest=source.digest,
        shape=shape,
        layers=layers,
        dtype="float32",
        opset=OPSET,
        scaling=traits.scaling,
        windows=traits.windows,
        softcap=traits.softcap,
        files=_sizes(work),
        hashes=_hashes(work),
    )
    exported.write(work)
    return exported, traits.vocabulary


def _traced(source: Source, work: Path, layers: int, reason: UnwrittenError) -> _Traits:
    """The same by torch, for decoders that are not written by hand."""
    if source.checkpoint is None:
        raise BackboneError(f"{reason}; take the model as safetensors, and set backbone.runtime to torch")
    try:
        from router_export.backbone.cutting import cut
        from router_export.backbone.tracing import first_layers, trace
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "export") from None
    whole = work / "whole.onnx"
    traced = trace(first_layers(source.checkpoint.path, layers), whole)
    cut(whole, work, layers)
    whole.unlink()
    return _Traits(traced.scaling, traced.windows, traced.softcap, traced.vocabulary)


def _rounded(source: Source, work: Path, exported: ExportedBackbone) -> ExportedBackbone:
    """The same with int8 weights."""
    from router_export.backbone.int8 import quantize

    widest = decoder_config(source.weights.config).get("intermediate_size") or 0
    quantize(work, exported.layers, int(widest))
    (work / RECORD).unlink()
    exported = replace(exported, dtype="int8", files=_sizes(work), hashes=_hashes(work))
    exported.write(work)
    return exported


def _sizes(work: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(work.iterdir())}


def _hashes(work: Path) -> dict[str, str]:
    return file_hashes(sorted(work.iterdir()))


def _states(work: Path, exported: ExportedBackbone, vocabulary: int) -> Array:
    """What enters each layer for made-up tokens.

    Raises:
        BackboneError: a number is not finite, or a graph does not run.
    """
    ids = np.random.default_rng(0).integers(3, vocabulary, 40).astype(np.int32)
    runtime = OnnxRuntime.load(work, device="cpu", cache_dtype="float32")
    states: Array = runtime.embed(ids, range(exported.layers), 2)
    if not np.isfinite(states).all():
        raise BackboneError(
            f"the weights of {exported.name} give numbers that are not finite; nothing was written; "
            "fetch the model again"
        )
    return states


def _compared(source: Source, work: Path, exported: ExportedBackbone, vocabulary: int) -> tuple[float, float]:
    """Differences from torch; see ``ExportedGraphs``."""
    from connector.backbone.torch_runtime.runtime import TorchRuntime

    assert source.checkpoint is not None
    theirs = TorchRuntime.load(source.checkpoint.path, device="cpu", dtype="float32", cache_dtype="float32")
    ours = OnnxRuntime.load(work, device="cpu", cache_dtype="float32")
    rows, embedding, states = _compare(theirs, ours, exported.layers, vocabulary)
    if exported.dtype == "int8":
        _check("the length of the states", states, exported, INT8_TOLERANCE)
    else:
        _check("attention", rows, exported, TOLERANCE)
        _check("a query embedding", embedding, exported, EMBEDDING_TOLERANCE)
    return rows, embedding


def _check(what: str, difference: float, exported: ExportedBackbone, most: float) -> None:
    if not difference <= most:
        whose = "float32's" if exported.dtype == "int8" else "torch's"
        raise BackboneError(
            f"the export of {exported.shape.family} is not the backbone: {what} differs from {whose} by "
            f"{difference:.2g}, more than {most:g}; nothing was written; set backbone.runtime to torch"
        )


def _apart(theirs: Array, ours: Array) -> float:
    """Largest length of a difference of states, as part of their own."""
    lengths = [np.linalg.norm(each, axis=2) for each in (theirs - ours, theirs)]
    return float((lengths[0] / lengths[1]).max())


def _compare(theirs: Runtime, ours: Runtime, layers: int, vocabulary: int) -> tuple[float, float, float]:
    """Largest differences of rows, of embeddings, and of the length of a layer's embedding.

    On made-up token ids, at shapes other than those traced.
    """
    random = np.random.default_rng(0)

    def ids(count: int) -> TokenIds:
        return random.integers(3, vocabulary, count).astype(np.int32)

    prefix, documents = tuple(ids(9).tolist()), [ids(count) for count in (37, 1, 120, 12)]
    shared, variants = ids(6), (ids(8), ids(3))
    position = len(prefix) + max(map(len, documents))

    def laid_out(parts: Sequence[TokenIds], position: int) -> Tail:
        every = np.eye(len(shared) + sum(map(len, parts)), dtype=np.float32)
        return Tail.of(shared, parts, every, position, len(prefix))

    needs = Needs(tuple((layer, head) for layer in range(layers) for head in range(theirs.shape.heads)))
    largest = 0.0
    together, apart = laid_out(variants, position), laid_out(variants[:1], 0)
    layouts: Mapping[Layout, Tail] = {"joint": together, "late": together, "solo": apart}
    for layout, tail in layouts.items():
        rows = []
        for runtime in (theirs, ours):
            encoded = list(runtime.encode(prefix, documents, needs, layout=layout))
            rows += [found.rows for found in runtime.read(prefix, [ReadRequest(tail, encoded, needs)], layout=layout)]
        largest = max(largest, float(np.abs(rows[0] - rows[1]).max()))
    embeddings = [runtime.embed(documents[0], range(layers), 2) for runtime in (theirs, ours)]
    scale = np.abs(embeddings[0]).max(axis=(1, 2), keepdims=True)
    difference = embeddings[0] - embeddings[1]
    return largest, float((np.abs(difference) / scale).max()), _apart(*embeddings)
