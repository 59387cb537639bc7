"""A backbone as it was exported: a folder with graphs, weights, tokenizer, and what they are.

::

    backbone.json          what was exported, with size and SHA-256 of every file, and its own
    layer-00.onnx …        graph 0: token ids -> queries, keys and values of layer 0; graph i: attention and the
                           rest of layer i - 1, then queries, keys and values of layer i
    rows.onnx              attention rows of some heads over packed keys
    weights.bin            the weights of all graphs
    tokenizer.json …       what tokenizer and prompt template are made from
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.file_hashes import changed_file, write_json
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError

__all__ = ["RECORD", "ROWS", "WEIGHTS", "ExportedBackbone", "exported_folder", "graph_name"]

RECORD = "backbone.json"
ROWS = "rows.onnx"
WEIGHTS = "weights.bin"
_FORMAT = "rh-backbone-onnx-3"
_AGAIN = (
    "export again with rh-connector export --backbone, copy it again, or, in the cache folder, have it made anew by "
    "rh-connector model pull"
)


def graph_name(layer: int) -> str:
    """File of the graph that ends with the queries, keys and values of a layer."""
    return f"layer-{layer:02}.onnx"


def exported_folder(model: str, cache: Path, dtype: str = "float32") -> Path:
    """Where the export of a model belongs: the folder that ``model`` names if it is one, else beside its weights.

    Args:
        model: as in ``backbone.model``.
        cache: the cache folder.
        dtype: of the exported weights: ``float32`` or ``int8``; each has a folder of its own.
    """
    path = Path(model).expanduser()
    if (path / RECORD).is_file():
        return path
    suffix = ".onnx" if dtype == "float32" else f".{dtype}.onnx"
    if model in CATALOGUE:
        return cache / "models" / f"{model}{suffix}"
    place = f"{path.resolve()}" if path.exists() else model
    name = re.sub(r"[^\w.-]+", "--", path.resolve().name if path.exists() else model)
    return cache / "models" / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}{suffix}"


@dataclass(frozen=True, slots=True)
class ExportedBackbone:
    """What ``backbone.json`` says.

    Attributes:
        name: of the model.
        digest: of the checkpoint that was exported.
        shape: of the whole LLM.
        layers: how many layers were exported, from the first.
        dtype: ``float32``, or ``int8`` weights.
        opset: of the graphs.
        scaling: of each exported layer: factor of the logits.
        windows: of each exported layer: sliding window in tokens, or None.
        softcap: of the logits, or None.
        files: name -> bytes.
        hashes: name -> SHA-256.
    """

    name: str
    digest: str
    shape: BackboneShape
    layers: int
    dtype: str
    opset: int
    scaling: tuple[float, ...]
    windows: tuple[int | None, ...]
    softcap: float | None
    files: Mapping[str, int]
    hashes: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write ``backbone.json``."""
        record = {"format": _FORMAT, **asdict(self)}
        write_json(folder / RECORD, {**record, "sha256": _own_hash(record)})

    @classmethod
    def read(cls, folder: Path, cache: Path | None = None, *, fresh: bool = False) -> ExportedBackbone:
        """Read ``backbone.json``, and check that it and every file are as they were written.

        Args:
            folder: of the export.
            cache: folder in which hashes are remembered; None: each process works them out once.
            fresh: read every file, whatever is remembered.

        Raises:
            BackboneError: it is missing, damaged or of another format, or a file is missing or is not what was
                written.
        """
        path = folder / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise BackboneError(
                    f"{path} has the format {record['format']}, this version reads {_FORMAT}; {_AGAIN}"
                )
            if record.pop("sha256") != _own_hash(record):
                raise ValueError("it is not what was written")
            del record["format"]
            exported = cls(
                **{
                    **record,
                    "shape": BackboneShape(**record["shape"]),
                    "scaling": tuple(record["scaling"]),
                    "windows": tuple(record["windows"]),
                }
            )
            needed = {*map(graph_name, range(exported.layers)), ROWS, WEIGHTS, "tokenizer.json"}
            consistent = len(exported.scaling) == len(exported.windows) == exported.layers
            if exported.layers < 1 or not consistent or not needed <= exported.files.keys():
                raise ValueError("the layers do not fit the files")
        except OSError as error:
            raise BackboneError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackboneError(f"{path} is damaged ({error}); {_AGAIN}") from None
        # A record is input like any other: it must not point out of its folder.
        files = {folder / Path(name).name: name for name in exported.files}
        for file, name in files.items():
            if not file.is_file() or file.stat().st_size != exported.files[name]:
                raise BackboneError(f"{file} is missing or damaged; {_AGAIN}")
        try:
            expected = {file: exported.hashes.get(name, "") for file, name in files.items()}
            changed = changed_file(expected, cache, fresh=fresh)
        except OSError as error:
            raise BackboneError(f"cannot read {error.filename}: {error.strerror}") from None
        if changed is not None:
            raise BackboneError(f"{changed} is not what was written; {_AGAIN}")
        return exported


def _own_hash(record: Mapping[str, Any]) -> str:
    """Of what a record says, however it is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
