"""int8 weights: close to float32's states, and as independent of each other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from connector.backbone.onnx_runtime.folder import RECORD, WEIGHTS, ExportedBackbone, exported_folder, graph_name
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.open_reader import open_reader
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError, SettingsError
from connector.heads.needs import Needs
from connector.sections import Layout, Settings
from router_export import export_backbone
from tests.backbone.onnx_runtime.test_runtime import DOCUMENTS, PREFIX, tail, with_backbone
from tests.backbone.onnx_runtime.test_solo import read as read_alone
from tests.backbone.reading import read_one
from tests.backbone.tiny_exports import TinyExports

LAYERS = 3


@pytest.fixture(scope="module")
def checkpoint(tiny_exports: TinyExports) -> Checkpoint:
    return tiny_exports.checkpoint("llama")


@pytest.fixture(scope="module")
def folders(checkpoint: Checkpoint, tiny_exports: TinyExports) -> dict[str, Path]:
    """The same layers in both precisions."""
    found = {
        "float32": tiny_exports.exported(checkpoint, LAYERS),
        "int8": tiny_exports.exported(checkpoint, LAYERS, "int8"),
    }
    assert {name: ExportedBackbone.read(folder).dtype for name, folder in found.items()} == {n: n for n in found}
    return found


def loaded(folder: Path) -> OnnxRuntime:
    return OnnxRuntime.load(folder, cache_dtype="float32")


def test_products_are_of_integers_but_the_widest(folders: dict[str, Path], checkpoint: Checkpoint) -> None:
    widest = int(checkpoint.config()["intermediate_size"])
    for layer in range(1, LAYERS):
        graph = onnx.load(str(folders["int8"] / graph_name(layer))).graph
        kinds = [node.op_type for node in graph.node]
        # o, gate and up of the layer before; q, k and v of this one.
        assert kinds.count("MatMulInteger") == 6
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        floats = [
            shapes[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in shapes
        ]
        assert [shape[0] for shape in floats] == [widest]
    sizes = {name: (folder / WEIGHTS).stat().st_size for name, folder in folders.items()}
    assert sizes["int8"] < sizes["float32"]


def test_states_are_near_float32_s(folders: dict[str, Path]) -> None:
    whole, small = (
        loaded(folders[name]).embed(np.arange(3, 60, dtype=np.int32), range(LAYERS)) for name in ("float32", "int8")
    )
    error = np.linalg.norm(whole - small, axis=2) / np.linalg.norm(whole, axis=2)
    # They are others, and near.
    assert 0 < error[1:].max() < 0.1


@pytest.mark.parametrize("layout", ["solo", "late"])
def test_batch_equals_single_bit_for_bit(folders: dict[str, Path], layout: Layout) -> None:
    runtime = loaded(folders["int8"])
    heads: Any = [(layer, head) for layer in range(LAYERS) for head in range(runtime.shape.heads)]
    batch = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout=layout))
    single = [next(runtime.encode(PREFIX, [document], Needs(heads), layout=layout)) for document in DOCUMENTS]
    assert [state.to_bytes() for state in batch] == [state.to_bytes() for state in single]
    if layout == "late":
        rows = [read_one(runtime, PREFIX, tail(), states, heads, layout=layout) for states in (batch, single)]
        np.testing.assert_array_equal(*rows)


def test_documents_read_alone_are_alone(folders: dict[str, Path]) -> None:
    runtime = loaded(folders["int8"])
    needs = Needs(((1, 0),), ("query",), (0, 2))
    whole = read_alone(runtime, DOCUMENTS, needs)
    assert runtime.plan["batches"] == "each sequence by itself"
    for number, document in enumerate(DOCUMENTS):
        np.testing.assert_array_equal(read_alone(runtime, [document], needs).states[:, 0], whole.states[:, number])


def test_documents_of_the_other_precision_are_refused(folders: dict[str, Path]) -> None:
    whole, small = (loaded(folders[name]) for name in ("float32", "int8"))
    document = next(whole.encode(PREFIX, DOCUMENTS[:1], Needs(((1, 0),)), layout="solo"))
    with pytest.raises(BackboneError):
        small.load_document(document.to_bytes())
    assert whole.precision != small.precision


def test_nonsense_is_not_written(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_export.backbone.writing.INT8_TOLERANCE", 1e-9)
    with pytest.raises(BackboneError, match="the length of the states differs from float32's"):
        export_backbone(checkpoint, tmp_path / "export", 2, "int8")
    assert not list(tmp_path.iterdir())


def test_which_export_is_opened(
    folders: dict[str, Path], checkpoint: Checkpoint, settings: Settings, tmp_path: Path
) -> None:
    def opened(**values: Any) -> str:
        asked = with_backbone(settings, tmp_path, model=str(checkpoint.path), **{"runtime": "auto", **values})
        # The tiny model has too few positions for the prompt: which was loaded is seen by what is missing.
        try:
            open_reader(asked)
        except BackboneError as error:
            return str(error)
        return ""

    assert "export --backbone --precision int8" in opened(dtype="int8")
    shutil.copytree(folders["int8"], exported_folder(str(checkpoint.path), tmp_path, "int8"))
    assert "positions" in opened(dtype="int8")
    # All that there is.
    assert "positions" in opened(runtime="onnx", dtype="auto")
    shutil.copytree(folders["float32"], exported_folder(str(checkpoint.path), tmp_path))
    (exported_folder(str(checkpoint.path), tmp_path, "int8") / RECORD).write_text("{}")
    assert "positions" in opened(runtime="onnx", dtype="auto")
    assert "damaged" in opened(dtype="int8")
    with pytest.raises(SettingsError, match=r"backbone\.dtype = int8: int8 weights are for the runtime onnx"):
        open_reader(with_backbone(settings, tmp_path, model=str(checkpoint.path), dtype="int8", runtime="torch"))
