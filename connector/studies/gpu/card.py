"""Which card it is, and what it could do at most."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from connector.backbone.torch_runtime.device_memory import card
from connector.errors import BackboneError
from connector.evaluation.provenance import installed_versions, processor_name

__all__ = ["describe", "peak_of"]

# 10^12 operations a second in bfloat16, dense, of the makers' data sheets; the first name that is found counts.
_PEAKS: Mapping[str, float] = {
    r"B200": 2250.0,
    r"H200 NVL": 835.5,
    r"H200": 989.4,
    r"H100 NVL": 835.5,
    r"H100 PCIe": 756.5,
    r"H100": 989.4,
    r"A100": 312.0,
    r"L40S": 362.0,
    r"L4": 121.0,
    r"A10": 125.0,
    r"RTX 4090": 165.2,
}
_ASKED = ("name", "driver_version", "memory.total", "mig.mode.current", "power.limit")


def peak_of(name: str) -> float | None:
    """Operations a second in bfloat16 of a card's data sheet; None: not known here, or a slice of a card."""
    if " MIG " in f"{name} ":
        return None
    return next((peak * 1e12 for known, peak in _PEAKS.items() if re.search(rf"\b{known}\b", name)), None)


def describe(device: str) -> dict[str, Any]:
    """What the numbers depend on: card, driver, memory, versions.

    Args:
        device: ``cuda`` or ``cpu``.

    Raises:
        BackboneError: CUDA is asked for, and torch sees no card.
    """
    found: dict[str, Any] = {
        "device": "cpu",
        "cpu": processor_name(),
        "versions": {**installed_versions(), **_onnx_runtime()},
    }
    if device == "cpu":
        return found
    seen = card()
    if seen is None:
        raise BackboneError("torch sees no CUDA device; look at nvidia-smi, or run with --device cpu")
    name, free, total = seen
    return {**found, "device": name, "memory_free": free, "memory_total": total, "peak": peak_of(name), **_driver()}


def _driver() -> dict[str, Any]:
    """What nvidia-smi says of all cards; nothing where it is missing, as in some containers."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"cards": []}
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.strip()]
    return {"cards": [dict(zip(_ASKED, row, strict=False)) for row in rows]}


def _onnx_runtime() -> dict[str, str]:
    found = {}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
