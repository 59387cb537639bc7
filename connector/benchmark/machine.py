"""Where and how a benchmark ran."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from connector.benchmark.texts import Texts
from connector.evaluation.provenance import installed_versions, processor_name, today

if TYPE_CHECKING:
    from connector.benchmark.backbones import SharedBackbone

__all__ = ["describe_machine"]


def describe_machine(
    backbone: SharedBackbone, texts: Texts, repeats: int, at_most: float, command: str
) -> dict[str, Any]:
    """What the numbers depend on."""
    runtime, settings = backbone.runtime, backbone.settings
    return {
        "cpu": processor_name(),
        "device": runtime.device,
        "threads": runtime.threads,
        "runtime": runtime.plan["runtime"],
        "precision": runtime.precision,
        "model": settings.backbone.model,
        "layout": settings.backbone.layout,
        "router_mode": settings.router.mode,
        "router_embedder": settings.router.embedder,
        "texts": texts.source,
        "tokens": texts.tokens,
        "repeats": repeats,
        "at_most_seconds": at_most,
        "plan": dict(runtime.plan),
        "load_average_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": sys.version.split()[0],
        "versions": {**installed_versions(), **_of_peers()},
        "date": today(),
        "command": command,
    }


def _of_peers() -> dict[str, str]:
    found = {}
    for package in ("onnxruntime", "onnxruntime-gpu", "onnx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
