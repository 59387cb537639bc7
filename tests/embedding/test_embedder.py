"""The embedding model: a real graph in the real ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from connector.embedding.embedder import KNOWN, Embedder, known_name
from connector.errors import DataError
from tests.embedding.tiny_model import save_embedder

TEXTS = ["cats sleep", "bread", "hours day hours", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_embedder(tmp_path / "tiny")


def test_vectors_have_length_one_and_are_the_same_alone_and_in_a_batch(folder: Path) -> None:
    embedder = Embedder.load(str(folder))
    together = embedder.documents(TEXTS)
    assert together.shape == (4, 8) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together[:3], axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder.documents([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(embedder.documents(TEXTS[::-1]), together[::-1], atol=1e-6)
    np.testing.assert_allclose(embedder.query("bread"), together[1], atol=1e-6)
    assert embedder.documents([]).shape[0] == 0


def test_padding_counts_nothing_and_words_count_alike(folder: Path) -> None:
    embedder = Embedder.load(str(folder))
    cats, sleep = embedder.documents(["cats", "cats cats cats"])
    np.testing.assert_allclose(cats, sleep, atol=1e-6)


def test_the_first_token_where_the_model_says_so(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    embedder = Embedder.load(str(folder))
    np.testing.assert_allclose(embedder.query("cats sleep hours"), embedder.query("cats"), atol=1e-6)


def test_a_known_model_is_used_as_its_card_says(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path / "any", "bge-small-en-v1.5.onnx", "bge-small-en-v1.5-tokenizer.json")
    embedder = Embedder.load(str(folder))
    # Its card puts an instruction before queries, and takes the first token.
    (unknown,) = embedder.documents(["Represent"])
    np.testing.assert_allclose(embedder.query("cats"), unknown, atol=1e-6)
    np.testing.assert_allclose(embedder.documents(["cats sleep"]), embedder.documents(["cats"]), atol=1e-6)


def test_a_folder_is_known_by_its_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "bge-small-en-v1.5"
    assert known_name(str(folder)) is None
    digest = Embedder.load(str(folder)).digest
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], digest=digest))
    monkeypatch.chdir(folder)
    for named in (str(folder), f"../{folder.name}", "."):
        assert known_name(named) == name
        # The first token, as its card says.
        embedder = Embedder.load(named)
        np.testing.assert_allclose(embedder.documents(["cats sleep"]), embedder.documents(["cats"]), atol=1e-6)
    # A file that has changed is read again.
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    assert known_name(str(folder)) is None


def test_names_are_known_whole(folder: Path, tmp_path: Path) -> None:
    assert (
        known_name("all-minilm-L6-v2") == known_name("sentence-transformers/all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
    )
    save_embedder(tmp_path / "bge-small-en-v1.5")
    (tmp_path / "empty").mkdir()
    folders = (folder, tmp_path / "bge-small-en-v1.5", tmp_path / "empty")
    others = [*map(str, folders), "bge-small-en-v1.5-other", "bge", "~/nothing"]
    assert [known_name(other) for other in others] == [None] * len(others)


def test_a_long_text_is_cut(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 2}))
    embedder = Embedder.load(str(folder))
    np.testing.assert_allclose(
        embedder.documents(["cats sleep bread"]), embedder.documents(["cats sleep"]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "needs one ONNX model, and has none"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "needs one tokenizer.json, and has none"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no"), "cannot load the embedding model"),
        (lambda folder: (folder / "tokenizer.json").write_text("no"), "cannot load the embedding model"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, spoil, told: str) -> None:  # type: ignore[no-untyped-def]
    spoil(folder)
    with pytest.raises(DataError, match=told):
        Embedder.load(str(folder))


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = len(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        DataError, match=r"does not take the tokens of tokenizer.json: .*idx=12 .*; give the folder the tokenizer"
    ):
        Embedder.load(str(folder))


def test_two_graphs_are_one_too_many(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "a.onnx")
    save_embedder(folder, "b.onnx")
    with pytest.raises(DataError, match=r"has several: a\.onnx, b\.onnx"):
        Embedder.load(str(folder))


def test_an_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no embedding model nothing; give a folder .* all-MiniLM-L6-v2"):
        Embedder.load("nothing")


def test_a_known_name_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot fetch all-MiniLM-L6-v2 .*; give a folder that holds it"):
        Embedder.load("all-MiniLM-L6-v2", offline=True)
