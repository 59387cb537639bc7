"""Which runtime reads for these settings, and its LLM, made ready: fetched, written and loaded."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone
from connector.backbone.onnx_runtime.preparing import prepare_export
from connector.backbone.open_reader import open_reader as open_chosen
from connector.backbone.reader import Reader
from connector.backbone.runtime import torch_is_installed
from connector.checkpoints.licences import AcceptLicense
from connector.checkpoints.package_files import Progress
from connector.checkpoints.pulling import check_named, obtain
from connector.embedding.embedder import fetch
from connector.errors import BackboneError, MissingExtraError
from connector.routing.needed_layers import layers_read, needs_likelihood
from connector.sections import Settings

__all__ = ["Pulled", "open_reader", "pull_model", "takes_onnx"]

logger = logging.getLogger(__name__)
# Number formats that torch alone has.
_OF_TORCH = frozenset({"bfloat16", "float16"})
_CACHED_BY_TORCH = frozenset({"bfloat16", "int4"})
# Of a processor that multiplies bfloat16 itself, as Linux names them.
_CPU_FACTS = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


def open_reader(settings: Settings, progress: Progress | None = None) -> Reader:
    """Load the LLM that the settings name in the runtime that suits this machine; what is missing is fetched.

    Where torch is installed too, it reads whatever ONNX Runtime could not be made ready for.

    Raises:
        SettingsError, BackboneError: see ``connector.backbone.open_reader``; or the model's graphs cannot be written.
        MissingExtraError: torch, transformers, onnx or ONNX Runtime is not installed.
    """
    if not takes_onnx(settings):
        return open_chosen(settings, progress)
    freely = settings.backbone.runtime == "auto"
    try:
        prepare_export(settings, layers_read(settings), progress)
    except BackboneError as error:
        if not (freely and torch_is_installed()):
            raise
        logger.warning("torch reads: %s", error)
        return open_chosen(_with_runtime(settings, "torch"), progress)
    return open_chosen(_with_runtime(settings, "onnx"), progress)


class Pulled(NamedTuple):
    """A model that can be used.

    Attributes:
        name: catalogue name, folder name, or hub id.
        path: its folder.
        digest: see ``Checkpoint.digest``.
    """

    name: str
    path: Path
    digest: str


def pull_model(settings: Settings, progress: Progress, accept_license: AcceptLicense | None = None) -> Pulled:
    """Fetch the models that the settings name, check the LLM, and make what this machine runs of it.

    Args:
        settings: model, cache folder, runtime.
        progress: told (what is being done, fraction or None).
        accept_license: see ``obtain``.

    Raises:
        BackboneError, MissingExtraError: see ``obtain`` and ``prepare_export``.
        DataError: the embedding model beside the LLM cannot be fetched.
    """
    backbone = settings.backbone
    if settings.router.embedder is not None:
        progress(f"looking for {settings.router.embedder}", None)
        fetch(settings.router.embedder, offline=backbone.offline)
    try:
        exports = takes_onnx(settings)
    except MissingExtraError:
        # Nothing ranks by it here; it may be meant for a router, or for another machine.
        exports = False
    named = (Path(backbone.model).expanduser() / RECORD).is_file()
    if named or exports and not torch_is_installed():
        folder = prepare_export(settings, layers_read(settings), progress, accept_license, verify=True)
        exported = ExportedBackbone.read(folder, settings.cache.path)
        return Pulled(exported.name, folder, exported.digest)
    checkpoint = obtain(
        backbone.model,
        cache=settings.cache.path,
        offline=backbone.offline,
        accept_license=accept_license,
        progress=progress,
        verify=True,
    )
    if exports:
        prepare_export(settings, layers_read(settings), progress, accept_license, verify=True)
    return Pulled(checkpoint.name, checkpoint.path, checkpoint.digest())


def takes_onnx(settings: Settings) -> bool:
    """Whether ONNX Runtime reads for these settings; ``backbone.runtime`` ``auto`` takes what is here and faster.

    With both installed, that is ONNX Runtime on a CPU that does not multiply bfloat16 itself, in the layout ``solo``;
    and torch on a GPU, in other layouts, and for what is asked of it alone.

    Raises:
        MissingExtraError: documents are ranked by likelihood, which takes torch, and it is not installed.
        BackboneError: there is no such model, or the router that is configured is missing or damaged.
    """
    backbone = settings.backbone
    named = (Path(backbone.model).expanduser() / RECORD).is_file()
    if backbone.runtime != "auto" or named or backbone.dtype == "int8":
        return backbone.runtime != "torch"
    if needs_likelihood(settings):
        if not torch_is_installed():
            check_named(backbone.model)
            raise MissingExtraError("torch", "torch")
        return False
    if not torch_is_installed():
        return True
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    of_torch = backbone.dtype in _OF_TORCH or settings.cache.dtype in _CACHED_BY_TORCH
    deep = settings.router.mode == "all" or backbone.layout != "solo"
    on_gpu = backbone.device == "cuda" or (backbone.device == "auto" and has_cuda())
    return not (of_torch or deep or on_gpu or multiplies_bfloat16())


@cache
def has_cuda() -> bool:
    """Whether this machine has a driver for CUDA; torch, which knows more, takes seconds to load."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, which make torch the faster one; False: perhaps not."""
    try:
        with _CPU_FACTS.open(encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return not _BFLOAT16.isdisjoint(flags.split())


def _with_runtime(settings: Settings, runtime: str) -> Settings:
    return settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"runtime": runtime})})
