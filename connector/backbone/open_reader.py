"""From settings to a reader: weights or their export, runtime, tokenizer, template, cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.caching.reading_cache import ReadingCache
from connector.backbone.caching.shared_cache import SharedCache
from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone, exported_folder
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.runtime import Runtime
from connector.backbone.similarity import Similarity, also_vectors
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.licences import accepting
from connector.checkpoints.package_files import Progress
from connector.checkpoints.pulling import obtain
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError, MissingExtraError, SettingsError
from connector.sections import Settings

__all__ = ["open_reader", "reader_from"]

logger = logging.getLogger(__name__)


class _Opened(NamedTuple):
    runtime: Runtime
    folder: Path
    digest: str


def open_reader(settings: Settings, progress: Progress | None = None) -> Reader:
    """Load the backbone that the settings name; its weights are fetched first where that is needed and allowed.

    ``backbone.runtime`` ``auto`` is torch where torch and transformers are installed, else the export of the model if
    there is one. ``backbone.model`` may name an exported folder, which no other runtime reads.

    Raises:
        SettingsError: the cache's number format does not go with the layout.
        BackboneError: the weights are missing, damaged, not licensed, or of a kind that is not read; or the export is
            missing, damaged, or of other weights.
        DataError: the embedding model (``router.embedder``) cannot be used.
        MissingExtraError: torch, transformers or ONNX Runtime is not installed.
    """
    runtime, folder, digest = _open(settings, progress)
    logger.info("%s", "; ".join(f"{subject}: {said}" for subject, said in runtime.plan.items()))
    tokenizer = Tokenizer.from_folder(folder)
    backbone = settings.backbone
    embedder = _embedder(settings)
    load = runtime.load_document if embedder is None else also_vectors(runtime.load_document)
    disk, shared = DiskCache.from_settings(settings.cache, load), SharedCache.from_settings(settings.cache, load)
    return Reader(
        runtime,
        tokenizer,
        PromptTemplate.from_folder(folder, tokenizer),
        backbone.layout,
        digest,
        DocumentCache(settings.cache.memory_mb * 1_000_000, disk, shared),
        readings=ReadingCache(settings.cache.scores_mb * 1_000_000),
        max_document_tokens=backbone.max_document_tokens,
        max_passages=backbone.max_passages,
        similarity=None if embedder is None else Similarity(embedder, disk, shared),
    )


def _embedder(settings: Settings) -> Embedder | None:
    named = settings.router.embedder
    if named is None:
        return None
    return Embedder.load(named, offline=settings.backbone.offline, device=settings.backbone.device)


def reader_from(source: Reader | Callable[[Settings], Reader], settings: Settings) -> Reader:
    """A reader that was handed in, or what loads it.

    Raises:
        SettingsError: it reads in another layout than the settings name.
    """
    reader = source if isinstance(source, Reader) else source(settings)
    if reader.layout != settings.backbone.layout:
        raise SettingsError(
            f"backbone.layout = {settings.backbone.layout}, and the reader that was handed in reads in the layout "
            f"{reader.layout}; give the settings that it was loaded with"
        )
    return reader


def _open(settings: Settings, progress: Progress | None) -> _Opened:
    backbone = settings.backbone
    folder = _exported_folder(settings)
    named = (Path(backbone.model).expanduser() / RECORD).is_file()
    if backbone.runtime == "torch" and named:
        raise BackboneError(
            f"backbone.model = {backbone.model} is an exported backbone, which torch does not read; "
            "set backbone.runtime to onnx, or name the model itself"
        )
    if backbone.runtime == "torch" and backbone.dtype == "int8":
        raise SettingsError(
            "backbone.dtype = int8: int8 weights are for the runtime onnx; set backbone.runtime to onnx, or "
            "backbone.dtype to auto"
        )
    if backbone.runtime == "onnx" or backbone.dtype == "int8" or named:
        return _open_exported(settings, folder)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        if backbone.runtime == "auto" and (folder / RECORD).is_file():
            return _open_exported(settings, folder)
        raise MissingExtraError(error.name or "torch", "torch") from None
    return _open_torch(settings, progress)


def _exported_folder(settings: Settings) -> Path:
    """Of the number format that is asked for; int8 where that is all there is and any will do."""
    backbone, cache = settings.backbone, settings.cache.path
    whole, small = (exported_folder(backbone.model, cache, dtype) for dtype in ("float32", "int8"))
    only_small = backbone.dtype == "auto" and not (whole / RECORD).is_file() and (small / RECORD).is_file()
    return small if backbone.dtype == "int8" or only_small else whole


def _open_torch(settings: Settings, progress: Progress | None) -> _Opened:
    backbone = settings.backbone
    checkpoint = obtain(
        backbone.model,
        cache=settings.cache.path,
        offline=backbone.offline,
        accept_license=accepting(backbone.accept_license),
        progress=progress,
    )
    from connector.backbone.torch_runtime.runtime import TorchRuntime

    runtime = TorchRuntime.load(
        checkpoint.path, device=backbone.device, dtype=backbone.dtype, cache_dtype=settings.cache.dtype
    )
    return _Opened(runtime, checkpoint.path, checkpoint.digest())


def _open_exported(settings: Settings, folder: Path) -> _Opened:
    backbone = settings.backbone
    if not (folder / RECORD).is_file():
        precision = " --precision int8" if backbone.dtype == "int8" else ""
        raise BackboneError(
            f"backbone.runtime = onnx: {backbone.model} was not exported (there is no {folder}); "
            f"run rh-connector export --backbone{precision}, or set backbone.runtime to torch"
        )
    exported = ExportedBackbone.read(folder, settings.cache.path)
    source = Path(backbone.model).expanduser()
    if source.is_dir() and source != folder:
        # The folder's weights may have changed since.
        digest = Checkpoint(source, source.resolve().name, settings.cache.path).digest()
        if digest != exported.digest:
            raise BackboneError(
                f"{folder} was exported from other files than {source} holds now; "
                "export again with rh-connector export --backbone"
            )
    from connector.backbone.onnx_runtime.runtime import OnnxRuntime

    runtime = OnnxRuntime.load(
        folder,
        device=backbone.device,
        dtype=backbone.dtype,
        cache_dtype=settings.cache.dtype,
        layout=backbone.layout,
    )
    return _Opened(runtime, folder, exported.digest)
