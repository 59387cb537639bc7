"""The export of the LLM, where ONNX Runtime runs it: then neither torch nor the weights themselves are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connector.backbone.onnx_runtime.folder import RECORD, WEIGHTS, ExportedBackbone, exported_folder
from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.model_facts import of_entry, of_shape
from connector.checkpoints.pulling import find_local
from connector.diagnosis.findings import Finding
from connector.diagnosis.model import ranking
from connector.errors import BackboneError
from connector.routing.opening import takes_onnx
from connector.sections import Settings

__all__ = ["describe_export", "export_that_runs", "exported_identity", "exported_model", "weights_of"]


def export_that_runs(settings: Settings) -> Path | None:
    """Folder of the export that is run with these settings, made or not; None: torch runs the weights.

    Raises:
        BackboneError, MissingExtraError: see ``takes_onnx``.
    """
    if not takes_onnx(settings):
        return None
    backbone, cache = settings.backbone, settings.cache.path
    wanted = {"int8": ("int8",), "auto": ("float32", "int8")}.get(backbone.dtype, ("float32",))
    folders = [exported_folder(backbone.model, cache, dtype) for dtype in wanted]
    return next((folder for folder in folders if (folder / RECORD).is_file()), folders[0])


def exported_model(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Is the export whole?

    Raises:
        BackboneError: it is damaged or of another format.
    """
    name, cache = settings.backbone.model, settings.cache.path
    pull = f"rh-connector {'--set backbone.offline=false ' * settings.backbone.offline}model pull {name}"
    if not (folder / RECORD).is_file():
        if Path(name).expanduser().exists() or (name in CATALOGUE and find_local(name, cache=cache) is not None):
            seen = f"{name} is here; its ONNX graphs are written at its first use"
            yield Finding("model", "warn", seen, f"{pull} does it beforehand")
        else:
            yield Finding("model", "fail", f"{name} is not here", pull, BackboneError.exit_code)
        return
    try:
        exported = ExportedBackbone.read(folder, settings.cache.path)
    except BackboneError as error:
        if folder == Path(name).expanduser():
            raise
        # What lies in the cache was written here, and is written anew where the weights can be had.
        seen = str(error).rpartition("; ")[0] or str(error)
        yield Finding("model", "fail", seen, f"{pull} writes it anew", BackboneError.exit_code)
        return
    size = sum(exported.files.values())
    seen = f"{settings.backbone.model} is here as ONNX graphs, {exported.dtype}, {size / 1e6:.0f} MB: {folder}"
    yield Finding("model", "ok", seen)


def exported_identity(settings: Settings, folder: Path) -> BackboneIdentity:
    """Of the exported LLM; what routers and head sets must fit.

    Raises:
        BackboneError: the export is damaged.
    """
    exported = ExportedBackbone.read(folder, settings.cache.path)
    template = PromptTemplate.from_folder(folder, Tokenizer.from_folder(folder))
    return BackboneIdentity.of(exported.digest, template, settings.backbone.layout, exported.shape)


def describe_export(settings: Settings, folder: Path) -> dict[str, Any]:
    """Facts about an export, ready for JSON: those of ``describe`` that it knows, and ``onnx``. Every file is read.

    Raises:
        BackboneError: it is damaged or of another format.
    """
    exported = ExportedBackbone.read(folder, settings.cache.path, fresh=True)
    entry = CATALOGUE.get(exported.name)
    return {
        "name": exported.name,
        "path": str(folder),
        "source": "ONNX graphs",
        **of_entry(entry),
        "digest": exported.digest,
        **of_shape(exported.shape),
        "template": entry.template if entry else None,
        "parameters": entry.parameters if entry else None,
        "bytes": sum(exported.files.values()),
        "onnx": {"dtype": exported.dtype, "layers": exported.layers},
        "ranks_by": ranking(settings, exported_identity(settings, folder)),
    }


def weights_of(folder: Path) -> int:
    """Bytes of the exported weights."""
    return (folder / WEIGHTS).stat().st_size
