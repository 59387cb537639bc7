"""The export of the LLM, where ONNX Runtime runs it: then neither torch nor the weights themselves are needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from connector.backbone.onnx_runtime.folder import RECORD, WEIGHTS, ExportedBackbone, exported_folder
from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.diagnosis.findings import Finding
from connector.sections import Settings

__all__ = ["export_that_runs", "exported_identity", "exported_model", "weights_of"]


def export_that_runs(settings: Settings) -> Path | None:
    """Folder of the export that is run with these settings; None: torch runs the weights. See ``open_reader``."""
    backbone, cache = settings.backbone, settings.cache.path
    wanted = {"int8": ("int8",), "auto": ("float32", "int8")}.get(backbone.dtype, ("float32",))
    folders = [exported_folder(backbone.model, cache, dtype) for dtype in wanted]
    there = next((folder for folder in folders if (folder / RECORD).is_file()), None)
    named = (Path(backbone.model).expanduser() / RECORD).is_file()
    if backbone.runtime == "onnx" or backbone.dtype == "int8" or named:
        return there or folders[0]
    has_torch = all(importlib.util.find_spec(package) is not None for package in ("torch", "transformers"))
    return there if backbone.runtime == "auto" and not has_torch else None


def exported_model(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Is the export whole?

    Raises:
        BackboneError: it is missing, damaged or of another format.
    """
    exported = ExportedBackbone.read(folder)
    size = sum(exported.files.values())
    seen = f"{settings.backbone.model} is here as ONNX graphs, {exported.dtype}, {size / 1e6:.0f} MB: {folder}"
    yield Finding("model", "ok", seen)


def exported_identity(settings: Settings, folder: Path) -> BackboneIdentity:
    """Of the exported LLM; what routers and head sets must fit.

    Raises:
        BackboneError: the export is damaged.
    """
    exported = ExportedBackbone.read(folder)
    template = PromptTemplate.from_folder(folder, Tokenizer.from_folder(folder))
    return BackboneIdentity.of(exported.digest, template, settings.backbone.layout, exported.shape)


def weights_of(folder: Path) -> int:
    """Bytes of the exported weights."""
    return (folder / WEIGHTS).stat().st_size
