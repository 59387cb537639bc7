"""A small embedding model in ONNX Runtime: what search teams already run beside BM25.

A model is a folder with an ONNX graph and a ``tokenizer.json``, as sentence-transformers models are published on the
Hugging Face hub, or a name known here. The libraries for it want more of a folder than graph and tokenizer, or torch.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from connector.embedding.sessions import Device, open_session
from connector.errors import DataError, MissingExtraError

__all__ = ["KNOWN", "Embedder", "fetch", "known_name", "told_apart"]

Pooling = Literal["mean", "cls"]
_BATCH = 32
_MAX_TOKENS = 512
_WANTED = ("onnx/model.onnx", "tokenizer.json", "1_Pooling/config.json", "sentence_bert_config.json")


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a known model is used, after its card.

    Attributes:
        hub: where it is found.
        digest: sha256 of its graph there, hexadecimal.
        pooling: how the tokens' states become one vector.
        query: what stands before a query.
    """

    hub: str
    digest: str
    pooling: Pooling
    query: str = ""


KNOWN = {
    "all-MiniLM-L6-v2": _Recipe(
        "sentence-transformers/all-MiniLM-L6-v2",
        "6fd5d72fe4589f189f8ebc006442dbb529bb7ce38f8082112682524616046452",
        "mean",
    ),
    "bge-small-en-v1.5": _Recipe(
        "BAAI/bge-small-en-v1.5",
        "828e1496d7fabb79cfa4dcd84fa38625c0d3d21da474a00f08db0f559940cf35",
        "cls",
        "Represent this sentence for searching relevant passages: ",
    ),
}
"""Names that are understood besides folders."""


def known_name(model: str) -> str | None:
    """The name in ``KNOWN`` that a setting stands for: such a name, or a folder with the graph of such a model.

    Nothing is fetched or loaded.
    """
    # A settings file has no shell that does it.
    folder = Path(model).expanduser()
    if not folder.is_dir():
        asked = model.lower()
        return next((name for name, own in KNOWN.items() if asked in (name.lower(), own.hub.lower())), None)
    digest = _digest_in(folder)
    return next((name for name, own in KNOWN.items() if own.digest == digest), None)


def told_apart(model: str) -> str:
    """A name that two different models do not share: the known one, or a folder's with its graph's SHA-256."""
    folder = Path(model).expanduser()
    digest = _digest_in(folder) if folder.is_dir() else None
    return known_name(model) or "-".join([folder.absolute().name, *([digest[:8]] if digest else [])])


def fetch(model: str, *, offline: bool = False) -> Path:
    """The folder of an embedding model, fetched from the hub if it is a known name.

    Raises:
        DataError: there is no such model, or it cannot be fetched.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    known = known_name(model)
    if known is None:
        raise DataError(
            f"no embedding model {model}; give a folder with an ONNX model and its tokenizer.json, or one of "
            f"{', '.join(KNOWN)}"
        )
    return _from_hub(KNOWN[known].hub, model, offline)


class Embedder:
    """An embedding model. Thread-safe.

    Attributes:
        fingerprint: of all that a document's vector depends on: graph, tokenizer, pooling, device. Hexadecimal.

    Args:
        name: of the model.
        digest: sha256 of its graph, hexadecimal.
        session: an ONNX Runtime session.
        tokenizer: of the same model.
        pooling: how the tokens' states become one vector.
        query: what stands before a query.
        tokenizer_digest: of the tokenizer's file, with the most tokens of a text.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        session: Any,
        tokenizer: Any,
        pooling: Pooling = "mean",
        query: str = "",
        tokenizer_digest: str = "",
    ) -> None:
        self.name, self.digest = name, digest
        # On a GPU a vector differs in its last digits.
        depends = f"{digest} {tokenizer_digest} {pooling} {session.get_providers()[0]}"
        self.fingerprint = hashlib.sha256(depends.encode()).hexdigest()
        self._session, self._tokenizer, self._pooling, self._query = session, tokenizer, pooling, query
        self._inputs = [each.name for each in session.get_inputs()]

    @classmethod
    def load(cls, model: str, *, offline: bool = False, device: Device = "cpu") -> Embedder:
        """Load a folder, or a known name from the hub.

        Args:
            model: path of a folder, or one of ``KNOWN``.
            offline: only what the hub's cache holds.
            device: what runs it; CUDA that does not start leaves it to the CPU.

        Raises:
            DataError: there is no such model, or its files cannot be used.
            MissingExtraError: ONNX Runtime or huggingface_hub is not installed.
        """
        # Before anything is fetched for them.
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "onnxruntime", "cpu") from None
        folder = fetch(model, offline=offline)
        graph = _graph(folder)
        tokenizer_file = _only(folder, ("tokenizer.json",), "*tokenizer.json", "tokenizer.json")
        # Or a folder whose graph bears the name, as another export of a known model does.
        named = known_name(model) or next((name for name in KNOWN if name.lower() in graph.stem.lower()), None)
        recipe = None if named is None else KNOWN[named]
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
            session = open_session(str(graph), onnxruntime.SessionOptions(), "cpu" if device == "cpu" else "auto")
        except Exception as error:  # neither library's exceptions have a base of their own
            told = textwrap.shorten(str(error), 200, placeholder=" …")
            raise DataError(f"cannot load the embedding model {folder}: {told}; name another folder") from None
        longest = _longest(folder)
        tokenizer.enable_truncation(longest)
        tokenizer.enable_padding()
        pooling = _pooling(folder) or (recipe.pooling if recipe else "mean")
        own = cls(
            Path(model).name,
            _digest(graph),
            session,
            tokenizer,
            pooling,
            recipe.query if recipe else "",
            f"{_digest(tokenizer_file)} {longest}",
        )
        try:
            # The last token of the tokenizer, which a smaller model lacks.
            own._states(np.array([[tokenizer.get_vocab_size() - 1]], dtype=np.int64), np.ones((1, 1), dtype=np.int64))
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            told = textwrap.shorten(str(error), 200, placeholder=" …")
            raise DataError(
                f"the embedding model {folder} does not take the tokens of {tokenizer_file.name}: {told}; give the "
                "folder the tokenizer that belongs to its ONNX model"
            ) from None
        return own

    def documents(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [texts, dimension], of length 1: their scalar products are cosines."""
        # Alike lengths together: less padding. Every text has the same vector whatever it came with, up to rounding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found: dict[int, npt.NDArray[np.float32]] = {}
        for start in range(0, len(order), _BATCH):
            own = order[start : start + _BATCH]
            found.update(zip(own, self._vectors([texts[at] for at in own]), strict=True))
        return np.array([found[at] for at in range(len(texts))], dtype=np.float32)

    def query(self, text: str) -> npt.NDArray[np.float32]:
        """float32 [dimension], of length 1."""
        vector: npt.NDArray[np.float32] = self._vectors([self._query + text])[0]
        return vector

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(list(texts))
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        states = self._states(np.array([each.ids for each in encoded], dtype=np.int64), mask)
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            # A text without any token is nothing, near to no other.
            pooled = (states * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(length, 1e-12), dtype=np.float32)

    def _states(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 [texts, tokens, dimension]."""
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        states: npt.NDArray[np.float32] = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        return states


def _graph(folder: Path) -> Path:
    return _only(folder, ("onnx/model.onnx", "model.onnx"), "*.onnx", "ONNX model")


def _digest_in(folder: Path) -> str | None:
    """sha256 of a folder's graph; None where there is none to read, which loading it tells."""
    try:
        return _digest(_graph(folder))
    except (DataError, OSError):
        return None


def _digest(graph: Path) -> str:
    stat = graph.stat()
    return _digest_of(graph, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _digest_of(graph: Path, size: int, changed: int) -> str:
    """Read once a process, as long as the file stays the same."""
    with graph.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _only(folder: Path, usual: Sequence[str], pattern: str, what: str) -> Path:
    """The usual file, or the only one of the pattern.

    Raises:
        DataError: none, or several.
    """
    for name in usual:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        told = "has several: " + ", ".join(path.name for path in found) if found else "has none"
        raise DataError(
            f"the embedding model {folder} needs one {what}, and {told}; mend the folder, or name another"
        )
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _longest(folder: Path) -> int:
    """What sentence-transformers keeps of a text, in tokens."""
    told = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return min(told, _MAX_TOKENS) if isinstance(told, int) and told > 0 else _MAX_TOKENS


def _pooling(folder: Path) -> Pooling | None:
    """What sentence-transformers says of the model; None where it says nothing."""
    told = _json(folder / "1_Pooling" / "config.json")
    if told.get("pooling_mode_cls_token"):
        return "cls"
    return "mean" if told.get("pooling_mode_mean_tokens") else None


def _from_hub(hub: str, name: str, offline: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "cpu") from None
    try:
        return Path(snapshot_download(hub, allow_patterns=list(_WANTED), local_files_only=offline))
    except Exception as error:  # the hub's client raises of many kinds
        told = textwrap.shorten(str(error), 200, placeholder=" …")
        raise DataError(
            f"cannot fetch {name} ({hub}) from the hub: {told}; give a folder that holds it, or, where there is a "
            f"network, run rh-connector --set router.embedder={name} model pull MODEL (your backbone.model)"
        ) from None
