"""Machine, packages and cache folder."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from connector.backbone.caching.shared_cache import shared_entries
from connector.checkpoints.checkpoint import Checkpoint
from connector.diagnosis.findings import Finding, Level
from connector.errors import BackboneError
from connector.installation import this_installation
from connector.routing.shipped_files import shipped_router
from connector.sections import Settings

__all__ = [
    "EXPORTED_PROGRAM_BYTES",
    "PROGRAM_BYTES",
    "cache_folder",
    "free_memory",
    "gpu",
    "machine",
    "packages",
    "shared_documents",
    "weights",
]

_CODE = BackboneError.exit_code
_GROUPS = Path("/sys/fs/cgroup")
_LEAST_DISK = 2_000_000_000
PROGRAM_BYTES, EXPORTED_PROGRAM_BYTES = 2_000_000_000, 1_000_000_000
"""What a server took beside weights and cached documents, in torch and in ONNX Runtime: docs/troubleshooting.md."""


def machine(
    settings: Settings, weights: int | None, program: int = PROGRAM_BYTES, beside: int = 0
) -> Iterator[Finding]:
    """Python, cores, and free memory against what the model needs.

    Args:
        settings: see ``load_settings``.
        weights: bytes of the model's weights as they run; None: it is not here.
        program: bytes that the process takes beside weights and cached documents.
        beside: bytes of a second model's weights.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = free_memory()
    seen = f"Python {platform.python_version()}, {cores} core{'s' if cores > 1 else ''}"
    seen += ", free memory unknown" if free is None else f", {_gb(free)} of memory free"
    if weights is None:
        yield Finding("machine", "ok", seen)
        return
    cache = settings.cache.memory_mb * 1_000_000
    seen += f"; {settings.backbone.model} takes {_gb(weights)}"
    if beside:
        # Each of them has a cache of its own.
        seen, weights, cache = f"{seen}, {settings.cascade.model} {_gb(beside)}", weights + beside, 2 * cache
    seen += f", the program beside it up to {_gb(program)}"
    seen += f", and cached documents up to {_gb(cache)}"
    if free is None or free > weights + program + cache:
        yield Finding("machine", "ok", seen)
    elif free > weights + program:
        yield Finding("machine", "warn", seen, "lower cache.memory_mb, or free memory")
    else:
        mend = "free memory, take a smaller model (backbone.model), or set backbone.dtype to bfloat16"
        yield Finding("machine", "warn", seen, mend)


def gpu(settings: Settings) -> Iterator[Finding]:
    """The card on which torch would run the LLM, and its memory now; nothing where it would run on the CPU."""
    if settings.backbone.device == "cpu" or importlib.util.find_spec("torch") is None:
        return
    from connector.backbone.torch_runtime.device_memory import card

    found = card()
    if found is not None:
        name, free, total = found
        yield Finding("gpu", "ok", f"{name}, {_gb(free)} of {_gb(total)} free")


def packages(settings: Settings, *, exported: bool = False) -> Iterator[Finding]:
    """The optional packages that the settings need.

    Args:
        settings: see ``load_settings``.
        exported: the LLM runs as ONNX graphs, without torch.
    """
    onnx_runtime = "gpu" if settings.router.provider == "cuda" or settings.backbone.device == "cuda" else "cpu"
    named = settings.router.bundle
    routed = shipped_router(settings) if named is None else named
    needed = dict.fromkeys(("torch", "transformers", "safetensors"), "torch")
    if exported:
        needed = {"onnxruntime": onnx_runtime}
    if settings.router.mode in ("auto", "routed") and routed is not None and routed.suffix == ".onnx":
        needed["onnxruntime"] = onnx_runtime
    if settings.engine.kind == "opensearch":
        needed["opensearchpy"] = "opensearch"
    if settings.engine.kind == "elasticsearch":
        needed["elasticsearch"] = "elasticsearch"
    if settings.engine.embedder is not None:
        needed |= {"faiss": "vectors", "onnxruntime": needed.get("onnxruntime", "cpu")}
    if settings.engine.aws_region is not None:
        needed["boto3"] = "aws"
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        mend = this_installation().adding(*dict.fromkeys(needed[package] for package in missing))
        yield Finding("packages", "fail", f"not installed: {', '.join(missing)}", mend, _CODE)
    else:
        yield Finding("packages", "ok", f"installed: {', '.join(needed)}")


def cache_folder(settings: Settings, has_model: bool) -> Iterator[Finding]:
    """Can weights and indexes be written? Nothing is: the permissions are looked at."""
    path = settings.cache.path
    mend = "set cache.path to a folder that may be written, or change its owner"
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    if not there.is_dir():
        yield Finding("cache folder", "fail", f"{there} is not a folder", mend, _CODE)
        return
    if not os.access(there, os.W_OK | os.X_OK):
        # Whoever only reads what others have pulled needs no right to write.
        level: Level = "warn" if has_model else "fail"
        yield Finding("cache folder", level, f"{there} may not be written", mend, _CODE)
        return
    room = shutil.disk_usage(there).free
    seen = f"{path}{'' if there == path else ', made at first use'}, {_gb(room)} free"
    if room < _LEAST_DISK and not has_model:
        yield Finding("cache folder", "warn", seen, "make room, or set cache.path: a model has to be fetched")
    else:
        yield Finding("cache folder", "ok", seen)


def shared_documents(settings: Settings) -> Iterator[Finding]:
    """Is the file that other machines encode for there? Nothing where ``cache.shared`` is not set."""
    if settings.cache.shared is not None:
        held = shared_entries(settings.cache.shared)
        yield Finding("shared documents", "ok", f"{settings.cache.shared} holds {held:,} passages")


def free_memory() -> int | None:
    """Bytes that this process can still take: of the machine, or of its container if that is less."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit, used = ((_GROUPS / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            cached = dict(line.split() for line in (_GROUPS / "memory.stat").read_text().splitlines())
            found.append(int(limit) - int(used) + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def weights(settings: Settings, checkpoint: Checkpoint) -> int:
    """Bytes of the weights in the number format in which they run."""
    size = sum(file.stat().st_size for file in checkpoint.weight_files())
    config = checkpoint.config()
    stored = 2 if "16" in str(config.get("dtype") or config.get("torch_dtype")) else 4
    dtype = settings.backbone.dtype
    wide = dtype == "float32" or dtype == "auto" and settings.backbone.device != "cuda"
    return size * (4 if wide else 2) // stored


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
