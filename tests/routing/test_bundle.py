"""Loading bundles: what is damaged, foreign, older or for something else is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.checkpoints.catalogue import CATALOGUE
from connector.embedding.embedder import KNOWN
from connector.errors import BackboneError
from connector.heads.head_sets import shipped_path
from connector.routing.bundle import Bundle, seal, shipped_bundle
from connector.routing.metadata import METADATA_KEY, RouterMetadata
from router_export import export
from tests.router_export.router.test_exporting import D, make_router
from tests.training.worlds import metadata


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "r.onnx"
    export(make_router(), metadata(), path)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_part_of_a_bundle_loads(content: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "r.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_passes(content: bytes, tmp_path: Path, data: st.DataObject) -> None:
    at, change = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    path = tmp_path / "r.onnx"
    path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    refusal(path)


def changed(content: bytes, tmp_path: Path, **changes: object) -> Path:
    """A bundle with other metadata, its digest right."""
    model = onnx.ModelProto.FromString(content)
    properties = {entry.key: entry.value for entry in model.metadata_props if entry.key != "digest"}
    record = json.loads(properties[METADATA_KEY]) | changes
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(record)})
    path = tmp_path / "r.onnx"
    path.write_bytes(seal(model.SerializeToString(deterministic=True)))
    return path


def test_unchanged_metadata_still_load(content: bytes, tmp_path: Path) -> None:
    assert Bundle.load(changed(content, tmp_path)).metadata == metadata()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "rh-router-0"}, "format 'rh-router-0'"),
        ({"scales": [1.0, 1.0, 1.0, 0.0]}, "scales"),
        ({"scales": [1.0]}, "scales"),
        ({"pool": [[2, 1, "query"], [2, 1, "query"], [0, 0, "icr"], [5, 3, "query"]]}, "pool"),
        ({"pool": [[2, 1, "query"], [2, 1, "share"], [0, 0, "icr"], [5, 3, "sum"]]}, "pool"),
        ({"pool": [[2, 1, "query"]], "scales": [1.0], "most_heads": 1, "deepest_layer": 2}, ""),
        ({"most_heads": 5}, "most_heads"),
        ({"most_heads": 3}, "selected"),
        ({"deepest_layer": 4}, "deepest_layer"),
        ({"fingerprint": "abc"}, "fingerprint"),
        ({"static": {"members": [9], "gates": [1.0], "first_stage": 1.0}}, "static"),
        ({"embedding": {"form": "query", "layers": [3], "pooling": "mean", "features": True, "dimension": 15}}, "15"),
        ({"kappa": -1}, "kappa"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    content: bytes, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    assert says in refusal(changed(content, tmp_path, **changes))


def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "missing.onnx")
    for name, data in (("empty.onnx", b""), ("text.onnx", b"hello"), ("cut.onnx", content[:100])):
        (tmp_path / name).write_bytes(data)
        refusal(tmp_path / name)
    heads = shipped_path("smollm2-135m", "late")
    assert heads is not None and "head set" in refusal(heads)
    foreign = onnx.ModelProto.FromString(content)
    del foreign.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(foreign.SerializeToString())
    assert "not a router bundle" in refusal(path)
    path.write_bytes(seal(foreign.SerializeToString()))
    assert "not a router bundle" in refusal(path)


def test_a_bundle_for_something_else_is_refused() -> None:
    told = metadata()
    told.check("a" * 64, "b" * 64, 6, 4, "r.onnx")
    for arguments, says in (
        (("c" * 64, "b" * 64, 6, 4), "a-model late"),
        (("a" * 64, "c" * 64, 6, 4), "template"),
        (("a" * 64, "b" * 64, 5, 4), r"head \(5, 3\)"),
        (("a" * 64, "b" * 64, 6, 3), r"head \(5, 3\)"),
    ):
        with pytest.raises(BackboneError, match=f"r.onnx.*{says}.*train"):
            told.check(*arguments, "r.onnx")


def test_a_provider_that_is_missing_is_an_error(content: bytes, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    path = tmp_path / "r.onnx"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="router.provider is cuda.*CPUExecutionProvider.*cpu"):
        Bundle.load(path, "cuda")
    # Where any will do, the CPU does.
    assert Bundle.load(path, "auto").provider == Bundle.load(path).provider == "cpu"


def test_wrong_embeddings_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.onnx"
    path.write_bytes(content)
    bundle = Bundle.load(path)
    for wrong in (np.zeros((1, D + 1), np.float32), np.zeros(D, np.float32), np.zeros((1, D), np.float64)):
        with pytest.raises(BackboneError, match="float32"):
            bundle.gates(wrong)
    with pytest.raises(BackboneError, match="infinite"):
        bundle.gates(np.full((1, D), np.inf, np.float32))


def test_metadata_survive_json() -> None:
    assert RouterMetadata.from_json(metadata().to_json()) == metadata()
    for text in ("", "[]", "{", '{"format": NaN}'):
        with pytest.raises(BackboneError):
            RouterMetadata.from_json(text, "r.onnx")


def test_files_of_the_first_format_load() -> None:
    bundle = Bundle.load(Path(__file__).parent / "files" / "rh-router-1.onnx")
    told = bundle.metadata
    assert (told.format, told.model, told.layout) == ("rh-router-1", "smollm2-135m", "block")
    assert len(told.heads) == len(told.pool) == 32 and told.absolute is None
    assert bundle.gates(np.zeros((1, told.embedding.dimension), np.float32))[0].shape == (1, 32)
    # It was trained for a layout that is gone: another backbone would be refused in the same words.
    with pytest.raises(BackboneError, match="was made for the layout block, which is gone; make one for another"):
        told.check(told.fingerprint, told.template, 30, 9, bundle.path.name)


SHIPPED = sorted((Path(__file__).parents[2] / "connector/routing/shipped").glob("*.onnx"))


def test_every_model_of_the_catalogue_has_a_router() -> None:
    assert {shipped_bundle(name, "solo") for name in CATALOGUE} <= set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_bundles_are_whole(path: Path, repository: Path) -> None:
    bundle = Bundle.load(path)
    told = bundle.metadata
    beside = [member.similarity for member in told.similarities]
    assert len(beside) <= 1 and set(beside) <= set(KNOWN)
    assert path == shipped_bundle(told.model, told.layout, *beside)
    assert told.model in CATALOGUE and told.layout == "solo" and bundle.size < 2_000_000
    assert told.absolute is not None and told.probes and told.reference is not None
    sources = {str(source["source"]).partition(":")[0] for source in told.training["sources"]}  # type: ignore[union-attr,index,call-overload]
    # Of the collections that are measured on the results page, no query was seen.
    assert len(sources) == 13
    assert not sources & {path.stem for path in (repository / "docs/results").glob("*.json")}
    assert " train " in str(told.training["command"])


def test_nothing_is_shipped_for_other_models() -> None:
    assert shipped_bundle("another", "solo") is None and shipped_bundle("smollm2-135m", "joint") is None
