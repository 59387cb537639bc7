"""A backbone as it was exported: a folder with graphs, weights, tokenizer, and what they are.

::

    backbone.json          what was exported, and the size of every file
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
from connector.checkpoints.file_hashes import write_json
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError

__all__ = ["RECORD", "ROWS", "WEIGHTS", "ExportedBackbone", "exported_folder", "graph_name"]

RECORD = "backbone.json"
ROWS = "rows.onnx"
WEIGHTS = "weights.bin"
_FORMAT = "rh-backbone-onnx-2"


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

    def write(self, folder: Path) -> None:
        """Write ``backbone.json``."""
        write_json(folder / RECORD, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> ExportedBackbone:
        """Read ``backbone.json`` and check that every file is there with its size.

        Raises:
            BackboneError: it is missing, damaged or of another format, or a file is missing or was cut.
        """
        path = folder / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = record.pop("format")
            if found != _FORMAT:
                raise BackboneError(
                    f"{path} has the format {found}, this version reads {_FORMAT}; "
                    "export again with rh-connector export --backbone"
                )
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
            raise BackboneError(
                f"{path} is damaged ({error}); export again with rh-connector export --backbone"
            ) from None
        for name, size in exported.files.items():
            # A record is input like any other: it must not point out of its folder.
            file = folder / Path(name).name
            if not file.is_file() or file.stat().st_size != size:
                raise BackboneError(f"{file} is missing or damaged; export again with rh-connector export --backbone")
        return exported
