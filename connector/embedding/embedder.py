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
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from connector.embedding.sessions import Device, open_session
from connector.errors import DataError, MissingExtraError

__all__ = ["KNOWN", "Embedder", "known_name"]

Pooling = Literal["mean", "cls"]
_BATCH = 32
_MAX_TOKENS = 512
_WANTED = ("onnx/model.onnx", "tokenizer.json", "1_Pooling/config.json", "sentence_bert_config.json")


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a known model is used, after its card.

    Attributes:
        hub: where it is found.
        pooling: how the tokens' states become one vector.
        query: what stands before a query.
    """

    hub: str
    pooling: Pooling
    query: str = ""


KNOWN = {
    "all-MiniLM-L6-v2": _Recipe("sentence-transformers/all-MiniLM-L6-v2", "mean"),
    "bge-small-en-v1.5": _Recipe(
        "BAAI/bge-small-en-v1.5", "cls", "Represent this sentence for searching relevant passages: "
    ),
}
"""Names that are understood besides folders."""


def known_name(model: str) -> str | None:
    """The name in ``KNOWN`` that a setting stands for: such a name, or a folder that bears one, itself or its graph.

    Nothing is fetched or loaded: whether the graph is the known one tells its digest, once it is.
    """
    # A settings file has no shell that does it.
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return next((name for name in KNOWN if name.lower() == model.lower()), None)
    borne = [folder.absolute().name, *(path.stem for path in folder.glob("*.onnx"))]
    return next((name for name in KNOWN if any(name.lower() in own.lower() for own in borne)), None)


class Embedder:
    """An embedding model. Thread-safe.

    Args:
        name: of the model.
        digest: sha256 of its graph, hexadecimal.
        session: an ONNX Runtime session.
        tokenizer: of the same model.
        pooling: how the tokens' states become one vector.
        query: what stands before a query.
    """

    def __init__(
        self, name: str, digest: str, session: Any, tokenizer: Any, pooling: Pooling = "mean", query: str = ""
    ) -> None:
        self.name, self.digest = name, digest
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
        folder = Path(model).expanduser()
        known = known_name(model)
        recipe = None if known is None else KNOWN[known]
        if not folder.is_dir():
            if recipe is None:
                raise DataError(
                    f"no embedding model {model}; give a folder with an ONNX model and its tokenizer.json, or one of "
                    f"{', '.join(KNOWN)}"
                )
            folder = _from_hub(recipe.hub, model, offline)
        graph = _only(folder, ("onnx/model.onnx", "model.onnx"), "*.onnx", "ONNX model")
        tokenizer_file = _only(folder, ("tokenizer.json",), "*tokenizer.json", "tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
            session = open_session(str(graph), onnxruntime.SessionOptions(), "cpu" if device == "cpu" else "auto")
        except Exception as error:  # neither library's exceptions have a base of their own
            told = textwrap.shorten(str(error), 200, placeholder=" …")
            raise DataError(f"cannot load the embedding model {folder}: {told}; name another folder") from None
        tokenizer.enable_truncation(_longest(folder))
        tokenizer.enable_padding()
        pooling = _pooling(folder) or (recipe.pooling if recipe else "mean")
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()
        return cls(Path(model).name, digest, session, tokenizer, pooling, recipe.query if recipe else "")

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
        given = {
            "input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        states = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            # A text without any token is nothing, near to no other.
            pooled = (states * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(length, 1e-12), dtype=np.float32)


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
        raise DataError(f"cannot fetch {name} ({hub}) from the hub: {told}; give a folder that holds it") from None
