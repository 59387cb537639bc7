"""Exported backbones in ONNX Runtime against the same weights in torch, for every family; and without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from connector.backbone.onnx_runtime.folder import RECORD, ROWS, WEIGHTS, exported_folder, graph_name
from connector.backbone.onnx_runtime.runtime import OnnxRuntime
from connector.backbone.open_reader import open_reader
from connector.backbone.prompt.tail import Tail, TokenIds
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.installation import this_installation
from connector.sections import Layout, Settings
from router_export.backbone.writing import EMBEDDING_TOLERANCE
from tests.backbone.reading import read_one, token_ids
from tests.backbone.tiny import FAMILIES
from tests.backbone.tiny_exports import TinyExports
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, POSITION, PREFIX, VARIANTS, tail
from tests.evaluation.folders import write_collection

TOLERANCE = 1e-5
# Reading them takes torch's blocks, and ours in parts.
(LONG,) = token_ids([3 + at % 110 for at in range(190)])


class Both(NamedTuple):
    folder: Path
    exported: Path
    torch: TorchRuntime
    onnx: OnnxRuntime


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def both(request: pytest.FixtureRequest, tiny_exports: TinyExports) -> Both:
    """Two layers: where a family mixes kinds of layers, one of each."""
    return loaded(tiny_exports, tiny_exports.checkpoint(request.param, layers=2))


@pytest.fixture(scope="module")
def short(tiny_exports: TinyExports) -> Both:
    """The first three of four layers."""
    return loaded(tiny_exports, tiny_exports.checkpoint("llama"), layers=3)


def loaded(exports: TinyExports, checkpoint: Checkpoint, layers: int | None = None) -> Both:
    exported = exports.exported(checkpoint, layers)
    torch = TorchRuntime.load(checkpoint.path, device="cpu", dtype="float32", cache_dtype="float32")
    return Both(checkpoint.path, exported, torch, OnnxRuntime.load(exported, cache_dtype="float32"))


def rows_of(runtime: Any, documents: list[TokenIds], heads: Any, pool: Any, *, layout: Layout) -> Any:
    if layout == "joint":
        # All of them in one prompt, encoded for what is read.
        documents, pool = [np.concatenate(documents)], heads
    encoded = list(runtime.encode(PREFIX, documents, Needs(tuple(pool)), layout=layout))
    return read_one(runtime, PREFIX, tail(), encoded, heads, layout=layout)


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_rows_are_torch_s(both: Both, layout: Layout) -> None:
    heads = both.torch.shape.all_heads()
    assert both.onnx.shape == both.torch.shape
    plan = both.onnx.plan
    assert list(plan)[:3] == list(both.torch.plan)[:3] == ["runtime", "device", "number_format"]
    assert (plan["runtime"], plan["provider"]) == ("onnx", "CPUExecutionProvider")
    assert (plan["graph_optimization"], plan["threads"]) == ("enable_all", str(both.onnx.threads))
    expected = rows_of(both.torch, DOCUMENTS, heads, heads, layout=layout)
    np.testing.assert_allclose(rows_of(both.onnx, DOCUMENTS, heads, heads, layout=layout), expected, atol=TOLERANCE)
    # The comparison must be about something: attention that differs between heads and tokens.
    assert expected.std(axis=0).max() > 0.01


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_some_heads_in_any_order_from_a_deeper_pool(both: Both, layout: Layout) -> None:
    check_some_heads(both, [(1, 1), (0, 2), (0, 0), (0, 3)], [(0, 3), (0, 2)], layout)
    check_some_heads(both, [(1, 3), (0, 2), (1, 0), (1, 1)], [(1, 3), (0, 2), (1, 0)], layout)


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_heads_of_many_layers_from_a_deeper_pool(short: Both, layout: Layout) -> None:
    check_some_heads(short, [(2, 1), (0, 2), (1, 0), (1, 3), (2, 2)], [(1, 3), (0, 2), (1, 0)], layout)


def check_some_heads(both: Both, pool: Any, heads: Any, layout: Layout) -> None:
    expected = rows_of(both.torch, DOCUMENTS, heads, pool, layout=layout)
    np.testing.assert_allclose(rows_of(both.onnx, DOCUMENTS, heads, pool, layout=layout), expected, atol=TOLERANCE)


def test_one_long_prompt_in_parts_is_torch_s(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = both.torch.shape.all_heads()
    expected = rows_of(both.torch, [LONG], heads, heads, layout="joint")
    monkeypatch.setattr("connector.backbone.onnx_runtime.runtime._PART_TOKENS", 50)
    np.testing.assert_allclose(rows_of(both.onnx, [LONG], heads, heads, layout="joint"), expected, atol=TOLERANCE)


@pytest.mark.parametrize("layout", ["solo", "late"])
def test_batch_equals_single_bit_for_bit(both: Both, layout: Layout) -> None:
    heads = both.torch.shape.all_heads()
    batch = list(both.onnx.encode(PREFIX, [*DOCUMENTS, LONG], Needs(heads), layout=layout))
    again = OnnxRuntime.load(both.exported, cache_dtype="float32")
    single = [next(again.encode(PREFIX, [document], Needs(heads), layout=layout)) for document in [*DOCUMENTS, LONG]]
    assert [state.to_bytes() for state in batch] == [state.to_bytes() for state in single]
    if layout == "late":
        together = read_one(both.onnx, PREFIX, tail(), batch, heads, layout=layout)
        np.testing.assert_array_equal(read_one(again, PREFIX, tail(), single, heads, layout=layout), together)


def test_what_late_remembers_of_a_tail_changes_no_bit(short: Both) -> None:
    heads = [head for head in short.torch.shape.all_heads() if head[0] < 3]
    encoded = list(short.onnx.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    short.onnx._fixed.clear()
    fresh = read_one(short.onnx, PREFIX, tail(), encoded, heads, layout="late")
    assert len(short.onnx._fixed) == 1
    assert read_one(short.onnx, PREFIX, tail(), encoded, heads, layout="late").tobytes() == fresh.tobytes()
    # A query alone, with nothing before or beside it.
    query = Tail.of((), VARIANTS[:1], np.eye(len(VARIANTS[0]), dtype=np.float32), POSITION, len(PREFIX))
    found, expected = (
        read_one(
            runtime,
            PREFIX,
            query,
            list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late")),
            heads,
            layout="late",
        )
        for runtime in (short.onnx, short.torch)
    )
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_embeddings_are_torch_s(both: Both) -> None:
    layers = [1, 0]
    (ids,) = token_ids([1, 30, 31, 32, 33])
    expected = both.torch.embed(ids, layers, 2)
    np.testing.assert_allclose(both.onnx.embed(ids, layers, 2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("layout", ["solo", "late"])
def test_encoded_documents_survive_bytes(short: Both, layout: Layout, dtype: str) -> None:
    runtime = OnnxRuntime.load(short.exported, cache_dtype=dtype)
    heads = [(0, 1), (1, 2)]
    encoded = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout=layout))
    loaded = [runtime.load_document(state.to_bytes()) for state in encoded]
    assert [state.nbytes for state in loaded] == [state.nbytes for state in encoded]
    assert [state.tokens for state in loaded] == [len(document) for document in DOCUMENTS]
    assert [state.to_bytes() for state in loaded] == [state.to_bytes() for state in encoded]
    if layout == "late":
        before = read_one(runtime, PREFIX, tail(), encoded, heads, layout=layout)
        np.testing.assert_array_equal(read_one(runtime, PREFIX, tail(), loaded, heads, layout=layout), before)
        exact = rows_of(short.onnx, DOCUMENTS, heads, heads, layout=layout)
        most = {"float32": 0, "float16": 2e-3, "int8": 5e-2}[dtype]
        assert np.abs(before - exact).mean() <= most
    data = encoded[0].to_bytes()
    for damaged in (data[:-30], data[:100], b"", data.replace(b"tokens", b"toquens")):
        with pytest.raises(BackboneError, match="damaged"):
            runtime.load_document(damaged)


def test_other_backbones_documents_are_refused(short: Both) -> None:
    theirs = next(short.torch.encode(PREFIX, DOCUMENTS, Needs(((1, 0),)), layout="late"))
    with pytest.raises(BackboneError, match="another runtime"):
        read_one(short.onnx, PREFIX, tail(), [theirs], [(1, 0)], layout="late")
    with pytest.raises(BackboneError, match="damaged"):
        short.onnx.load_document(theirs.to_bytes())
    own = next(short.onnx.encode(PREFIX, DOCUMENTS, Needs(((1, 0),)), layout="late"))
    other = own.to_bytes().replace(b"onnx llama", b"onnx qwen3")
    with pytest.raises(BackboneError, match="damaged|made by"):
        short.onnx.load_document(other)


def test_what_was_not_encoded_is_not_read(short: Both) -> None:
    joint = list(short.onnx.encode(PREFIX, [LONG], Needs(((0, 0),)), layout="joint"))
    with pytest.raises(BackboneError, match="up to layer 0, not 1"):
        read_one(short.onnx, PREFIX, tail(), joint, [(1, 0)], layout="joint")
    with pytest.raises(BackboneError, match="another layout cannot be read as late"):
        read_one(short.onnx, PREFIX, tail(), joint, [(0, 0)], layout="late")
    late = list(short.onnx.encode(PREFIX, DOCUMENTS, Needs(((1, 0),)), layout="late"))
    with pytest.raises(BackboneError, match="not encoded for layer 1, kv head 1"):
        read_one(short.onnx, PREFIX, tail(), late, [(1, 3)], layout="late")
    with pytest.raises(BackboneError, match="different heads"):
        other = list(short.onnx.encode(PREFIX, DOCUMENTS, Needs(((1, 3),)), layout="late"))
        read_one(short.onnx, PREFIX, tail(), [late[0], other[1]], [(1, 0)], layout="late")


def test_layers_that_were_not_exported_say_how_to_export_them(short: Both) -> None:
    assert short.onnx.shape.layers == 4
    heads = [(0, 0), (1, 3)]
    expected = rows_of(short.torch, DOCUMENTS, heads, heads, layout="joint")
    np.testing.assert_allclose(rows_of(short.onnx, DOCUMENTS, heads, heads, layout="joint"), expected, atol=TOLERANCE)
    for ask in (
        lambda: list(short.onnx.encode(PREFIX, DOCUMENTS, Needs(((3, 0),)), layout="joint")),
        lambda: short.onnx.embed(token_ids([1, 2])[0], [3]),
    ):
        with pytest.raises(BackboneError, match=r"layer 3 is wanted, .* ends with layer 2; .*--layers 4"):
            ask()


def test_settings_that_it_cannot_do_are_refused(short: Both) -> None:
    for options, message in (
        ({"dtype": "bfloat16"}, r"backbone\.dtype = bfloat16.*float32 weights"),
        ({"cache_dtype": "bfloat16"}, r"cache\.dtype = bfloat16"),
    ):
        with pytest.raises(BackboneError, match=message):
            OnnxRuntime.load(short.exported, **options)
    assert OnnxRuntime.load(short.exported).precision == "float32-float16"


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_rows_on_cuda_are_torch_s(short: Both, layout: Layout, capfd: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BackboneError, match=r"backbone\.device = cuda: this ONNX Runtime has no CUDA"):
            OnnxRuntime.load(short.exported, device="cuda")
        assert OnnxRuntime.load(short.exported).device == "cpu"
        return
    if not Path("/dev/nvidiactl").exists():
        # onnxruntime-gpu without a card: asked for CUDA it says so, else it takes the CPU.
        with pytest.raises(BackboneError, match=r"backbone\.device = cuda: ONNX Runtime could not start CUDA"):
            OnnxRuntime.load(short.exported, device="cuda")
        capfd.readouterr()
        assert OnnxRuntime.load(short.exported).device == "cpu"
        # Nobody asked for CUDA, and nobody is told that it did not start.
        assert capfd.readouterr() == ("", "")
        return
    cuda = OnnxRuntime.load(short.exported, device="cuda", cache_dtype="float32")
    heads = [(layer, head) for layer in range(3) for head in range(short.torch.shape.heads)]
    expected = rows_of(short.torch, DOCUMENTS, heads, heads, layout=layout)
    np.testing.assert_allclose(rows_of(cuda, DOCUMENTS, heads, heads, layout=layout), expected, atol=1e-3)


@pytest.mark.parametrize("file", [RECORD, WEIGHTS, ROWS, graph_name(1), "tokenizer.json"])
def test_damaged_exports_are_refused(short: Both, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(short.exported, copy)
    (copy / file).write_bytes((copy / file).read_bytes()[:-7])
    with pytest.raises(BackboneError, match="damaged"):
        OnnxRuntime.load(copy)
    (copy / file).unlink()
    with pytest.raises(BackboneError, match=file):
        OnnxRuntime.load(copy)


@pytest.mark.parametrize("file", [RECORD, WEIGHTS, ROWS, graph_name(1), "tokenizer.json"])
def test_a_bit_that_flipped_is_found(short: Both, tmp_path: Path, file: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(short.exported, copy)
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BackboneError, match=rf"{file}.*export again"):
        OnnxRuntime.load(copy)


def test_another_format_is_refused(short: Both, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(short.exported, copy)
    record = json.loads((copy / RECORD).read_text())
    (copy / RECORD).write_text(json.dumps({**record, "format": "rh-backbone-onnx-0"}))
    with pytest.raises(BackboneError, match="export again"):
        OnnxRuntime.load(copy)


def with_backbone(settings: Settings, cache: Path, **values: Any) -> Settings:
    backbone = settings.backbone.model_copy(update=values)
    return settings.model_copy(
        update={"backbone": backbone, "cache": settings.cache.model_copy(update={"path": cache})}
    )


def test_a_folder_s_export_is_found_beside_the_weights(short: Both, settings: Settings, tmp_path: Path) -> None:
    asked = with_backbone(settings, tmp_path, model=str(short.folder), runtime="onnx", max_document_tokens=8)
    with pytest.raises(BackboneError, match=r"backbone\.runtime = onnx: .* was not exported"):
        open_reader(asked)
    shutil.copytree(short.exported, exported_folder(str(short.folder), tmp_path))
    # The tiny model has too few positions for the prompt: all else has been opened by then.
    with pytest.raises(BackboneError, match="positions"):
        open_reader(
            asked.model_copy(update={"backbone": asked.backbone.model_copy(update={"max_document_tokens": 512})})
        )
    changed = tmp_path / "changed"
    shutil.copytree(short.folder, changed)
    (changed / "tokenizer_config.json").write_text("{}")
    shutil.copytree(short.exported, exported_folder(str(changed), tmp_path))
    with pytest.raises(BackboneError, match="exported from other files"):
        open_reader(with_backbone(settings, tmp_path, model=str(changed), runtime="onnx"))


def test_torch_does_not_read_an_export(short: Both, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="set backbone.runtime to onnx"):
        open_reader(with_backbone(settings, tmp_path, model=str(short.exported), runtime="torch"))


@pytest.fixture(scope="module")
def smollm2_export(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the export of SmolLM2, as far as the shipped heads read, and without its weights."""
    cache = tmp_path_factory.mktemp("cache")
    folder = str(exported_folder("smollm2-135m", cache))
    done = CliRunner().invoke(cli, ["--json", "export", "--backbone", "--out", folder], catch_exceptions=False)
    written = json.loads(done.stdout)
    assert (
        written["largest_difference"] <= TOLERANCE and written["largest_embedding_difference"] <= EMBEDDING_TOLERANCE
    )
    # The deepest head that is shipped for it.
    assert written["layers"] == 19
    return cache


@pytest.mark.parametrize("layout", ["joint", "late"])
def test_smollm2_s_rows_and_embeddings_are_torch_s(
    smollm2_export: Path, settings: Settings, cats: list[str], layout: str
) -> None:
    exact = settings.model_copy(update={"cache": settings.cache.model_copy(update={"dtype": "float32"})})
    theirs = open_reader(with_backbone(exact, settings.cache.path, layout=layout, runtime="torch"))
    ours = open_reader(with_backbone(exact, smollm2_export, layout=layout, runtime="onnx"))
    assert ours.fingerprint == theirs.fingerprint
    # And no others, which would hold the weights once more.
    assert isinstance(ours.runtime, OnnxRuntime) and list(ours.runtime._loaded) == [ours.runtime.threads]
    heads = [(layer, head) for layer in (3, 11, 18) for head in range(9)]
    query = "how long do cats sleep"
    for order in (cats, cats[::-1]):
        expected, found = (reader.read(query, order, Needs(heads)).rows for reader in (theirs, ours))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    if layout == "late":
        # Here a document's rows do not depend on its place. In joint each document sees those before it.
        np.testing.assert_array_equal(ours.read(query, cats, Needs(heads)).rows, found)
    embeddings = [reader.embed(query, [0, 6, 18]) for reader in (theirs, ours)]
    np.testing.assert_allclose(embeddings[1], embeddings[0], rtol=1e-4, atol=1e-5 * np.abs(embeddings[0]).max())


_WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "onnx", "onnxscript", "gguf"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Refuse())
from connector.cli import main
sys.argv = ["rh-connector", *sys.argv[1:]]
main()
"""


def without_torch(cache: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, "--set", f"cache.path={cache}", *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=cache,
    )


def test_rerank_search_and_serve_need_no_torch(
    smollm2_export: Path, cats: list[str], settings: Settings, tmp_path: Path
) -> None:
    request = json.dumps({"query": "how long do cats sleep", "documents": cats})
    done = without_torch(smollm2_export, "--json", "rerank", given=request)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["reranked"] and answer["hits"][0]["index"] == 2
    source = tmp_path / "cats.jsonl"
    source.write_text("".join(json.dumps({"_id": str(at), "text": text}) + "\n" for at, text in enumerate(cats)))
    assert without_torch(smollm2_export, "index", str(source)).returncode == 0
    found = without_torch(smollm2_export, "--json", "search", "how long do cats sleep")
    assert found.returncode == 0 and json.loads(found.stdout)["reranked"], found.stderr
    ready = without_torch(smollm2_export, "serve", "--get", "/ready")
    assert ready.returncode == 0, ready.stdout + ready.stderr


@pytest.mark.parametrize(("layout", "row"), [("solo", "routed+first-stage"), ("late", "static+first-stage")])
def test_evaluate_needs_no_torch(smollm2_export: Path, tmp_path: Path, layout: str, row: str) -> None:
    folder = write_collection(tmp_path / "animals")
    settings = ("--set", f"backbone.layout={layout}", "--set", "rerank.window=3")
    done = without_torch(smollm2_export, *settings, "evaluate", str(folder), "--timed", "0", "--all-rows")
    assert done.returncode == 0, done.stderr
    said = done.stderr
    assert "no rows likelihood and all: ONNX Runtime has the first" in said
    assert f"install it with: {this_installation().adding('torch')}" in said
    assert row in done.stdout
    # Whoever asks for the verdict alone misses nothing.
    alone = without_torch(smollm2_export, *settings, "evaluate", str(folder), "--timed", "0")
    assert alone.returncode == 0 and "the first stage" in alone.stdout and "no rows" not in alone.stderr


@pytest.mark.parametrize(("given", "told"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_onnx_runtime_reports_nothing_unless_it_is_told_to(given: dict[str, str], told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "import connector, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_without_torch_model_and_network_the_way_out_is_named(runtime: str, tmp_path: Path) -> None:
    given = json.dumps({"query": "q", "documents": ["a"]})
    alone = ("--set", f"backbone.runtime={runtime}", "--set", "backbone.offline=true")
    done = without_torch(tmp_path, *alone, "rerank", given=given)
    assert done.returncode == 4
    assert "backbone.offline is set; pull the model once online" in done.stderr
