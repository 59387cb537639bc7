"""The export of a model, written on the machine that runs it where it is not here yet: no torch is needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone, exported_folder
from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.licences import AcceptLicense, accepting
from connector.checkpoints.manifest import gguf_digest
from connector.checkpoints.package_files import Progress
from connector.checkpoints.pulling import find_damage, find_local, gguf_sha256, locked, obtain, with_gguf
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError, MissingExtraError
from connector.sections import Settings

__all__ = ["prepare_export"]

logger = logging.getLogger(__name__)
_LABEL = "preparing the model for this machine, once"


def prepare_export(
    settings: Settings,
    layers: int | None,
    progress: Progress | None = None,
    accept_license: AcceptLicense | None = None,
    *,
    verify: bool = False,
) -> Path:
    """The folder of a model's export; fetched and written first where it isn't here, or lacks layers.

    A folder that ``backbone.model`` names is taken as it is, or refused.

    Args:
        settings: model, cache folder, number format.
        layers: how many are needed at least; None: all.
        progress: told (what is being done, fraction or None).
        accept_license: see ``obtain``.
        verify: read every file of an export that is here, and write it anew if one has changed.

    Raises:
        BackboneError: the model cannot be had (see ``obtain``), its graphs cannot be written, or the folder that is
            named is damaged.
        MissingExtraError: onnx, gguf or ONNX Runtime is not installed; or torch, which the family needs.
    """
    backbone, cache = settings.backbone, settings.cache.path
    precision: Literal["float32", "int8"] = "int8" if backbone.dtype == "int8" else "float32"
    folder = exported_folder(backbone.model, cache, precision)
    named = Path(backbone.model).expanduser()
    if (named / RECORD).is_file():
        ExportedBackbone.read(folder, cache, fresh=verify)
        return folder
    damage: list[str] = []
    if _whole(folder, settings, layers, verify, damage.append):
        return folder
    try:
        with locked(cache, folder.name):
            # Another process may have written it while this one waited.
            if not _whole(folder, settings, layers, verify, _told):
                _write(folder, settings, layers, precision, progress, accept_license)
    except MissingExtraError:
        raise
    except BackboneError as error:
        # What cannot be written now may be here, and be damaged: then that is the cause.
        if not damage:
            raise
        raise BackboneError(f"{damage[0]}, and {error}") from None
    return folder


def _told(damage: str) -> None:
    logger.warning("%s; the graphs must be written anew", damage)


def _write(
    folder: Path,
    settings: Settings,
    layers: int | None,
    precision: Literal["float32", "int8"],
    progress: Progress | None,
    accept_license: AcceptLicense | None,
) -> None:
    """Under the lock."""
    report = progress or (lambda label, fraction: None)
    try:
        from router_export.backbone.sources import Source
        from router_export.backbone.writing import export_backbone
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "cpu") from None
    backbone, cache = settings.backbone, settings.cache.path
    for left in folder.parent.glob(f"{folder.name}.*.part"):
        # Of a process that was killed: nobody else writes here now.
        shutil.rmtree(left, ignore_errors=True)

    def write(source: Source) -> None:
        report(_LABEL, 0.0)
        # A router of a deeper model is refused where it is taken.
        deepest = BackboneShape.from_config(source.weights.config, source.name).layers
        export_backbone(
            source,
            folder,
            None if layers is None else min(layers, deepest),
            precision,
            compare=False,
            progress=lambda fraction: report(_LABEL, fraction),
        )

    entry = CATALOGUE.get(backbone.model)
    fetched = bool(entry and entry.parts) or Path(backbone.model).suffix.lower() == ".gguf"
    checkpoint = find_local(backbone.model, cache=cache)
    if checkpoint is None and (harmed := find_damage(backbone.model, cache=cache)) is not None:
        logger.warning("%s", harmed)
    if checkpoint is None and not fetched:
        checkpoint = obtain(backbone.model, cache=cache, offline=backbone.offline, progress=report)
    if checkpoint is not None:
        write(Source.of_checkpoint(checkpoint))
    else:
        with_gguf(
            backbone.model,
            lambda path, name, sha256: write(Source.of_gguf(path, name, sha256)),
            cache=cache,
            offline=backbone.offline,
            accept_license=accept_license or accepting(backbone.accept_license),
            progress=report,
        )
    # Later processes need not read it all.
    ExportedBackbone.read(folder, cache)


def _whole(
    folder: Path,
    settings: Settings,
    layers: int | None,
    verify: bool,
    say: Callable[[str], None],
) -> bool:
    """Whether the export is here, of these weights, and deep enough; told what is damaged."""
    if not (folder / RECORD).is_file():
        return False
    try:
        exported = ExportedBackbone.read(folder, settings.cache.path, fresh=verify)
        if exported.layers < (exported.shape.layers if layers is None else min(layers, exported.shape.layers)):
            return False
        digest = _digest(settings)
    except BackboneError as error:
        say(str(error).partition("; ")[0])
        return False
    return digest is None or digest == exported.digest


def _digest(settings: Settings) -> str | None:
    """Of the weights that the model stands for; None: they need not be here, or cannot have changed."""
    model, cache = settings.backbone.model, settings.cache.path
    path = Path(model).expanduser()
    if (entry := CATALOGUE.get(model)) is not None:
        return gguf_digest(entry.digests[0]) if entry.parts else None
    if path.suffix.lower() == ".gguf" and path.is_file():
        return gguf_digest(gguf_sha256(path, cache))
    if path.is_dir():
        return obtain(model, cache=cache, offline=True).digest()
    return None
