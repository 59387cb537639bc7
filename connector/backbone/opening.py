"""From settings to a reader: weights, runtime, tokenizer, template, cache."""

from __future__ import annotations

from collections.abc import Callable

from connector.backbone.cache import DocumentCache
from connector.backbone.disk_cache import DiskCache
from connector.backbone.prompts import PromptTemplate
from connector.backbone.pulling import obtain
from connector.backbone.reader import Reader
from connector.backbone.reading_cache import ReadingCache
from connector.backbone.runtime import Runtime
from connector.backbone.tokenizer import Tokenizer
from connector.errors import MissingExtraError, SettingsError
from connector.settings import Settings

__all__ = ["open_reader"]


def open_reader(settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> Reader:
    """Load the backbone that the settings name; its weights are fetched first where that is needed and allowed.

    Raises:
        SettingsError: a runtime that this version does not have.
        BackboneError: the weights are missing, damaged, not licensed, or of a kind that is not read.
        MissingExtraError: torch or transformers is not installed.
    """
    backbone = settings.backbone
    if backbone.runtime == "onnx":
        raise SettingsError("backbone.runtime = onnx: this version runs backbones in torch; set it to auto or torch")
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "torch") from None
    checkpoint = obtain(
        backbone.model,
        cache=settings.cache.path,
        offline=backbone.offline,
        accept_license=(lambda name, terms: True) if backbone.accept_license else None,
        progress=progress,
    )
    from connector.backbone.torch_runtime import TorchRuntime

    runtime: Runtime = TorchRuntime.load(
        checkpoint.path, device=backbone.device, dtype=backbone.dtype, cache_dtype=settings.cache.dtype
    )
    tokenizer = Tokenizer.from_folder(checkpoint.path)
    return Reader(
        runtime,
        tokenizer,
        PromptTemplate.from_folder(checkpoint.path, tokenizer),
        backbone.layout,
        checkpoint.digest(),
        DocumentCache(
            settings.cache.memory_mb * 1_000_000, DiskCache.from_settings(settings.cache, runtime.load_document)
        ),
        readings=ReadingCache(settings.cache.scores_mb * 1_000_000),
        max_document_tokens=backbone.max_document_tokens,
        max_passages=backbone.max_passages,
    )
