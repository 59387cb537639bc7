"""Sessions of ONNX Runtime on the CPU, or on a GPU where it can use one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

__all__ = ["CPU", "CUDA", "SHARED", "Device", "open_session", "trying_cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
SHARED = {"arena_extend_strategy": "kSameAsRequested"}
"""CUDA's options where others use the card too: what is needed is taken, and not the next power of two."""
Device = Literal["auto", "cpu", "cuda"]
"""``auto``: CUDA where this ONNX Runtime has it and it starts."""


@contextmanager
def trying_cuda(device: str) -> Iterator[None]:
    """While sessions are opened: CUDA that was not asked for may fail to start without a word.

    ONNX Runtime's default logger prints that, whatever a session's options say.
    """
    import onnxruntime

    if device == "auto":
        onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        if device == "auto":
            # Warnings, as it is at the start; it cannot be asked for.
            onnxruntime.set_default_logger_severity(2)


def open_session(model: bytes | str, options: Any, device: Device) -> Any:
    """A session; ``get_providers`` of it says what runs it.

    ONNX Runtime lists CUDA wherever onnxruntime-gpu is installed. Without a card, or without CUDA's libraries, its
    sessions run on the CPU. So may one that asks for ``cuda``: the caller looks.

    Args:
        model: its bytes, or its path.
        options: ``onnxruntime.SessionOptions``; what goes wrong is not printed.
        device: what may run it.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: the model cannot be run; ONNX Runtime's own exceptions have no common base.
    """
    import onnxruntime

    # What goes wrong is raised, or ends on the CPU; ONNX Runtime would print it as well.
    options.log_severity_level = 4
    if device != "cpu" and CUDA in onnxruntime.get_available_providers():
        try:
            with trying_cuda(device):
                return onnxruntime.InferenceSession(model, options, providers=[(CUDA, SHARED), CPU])
        except Exception:
            # A card that is full, or of a kind that is too old. A model that is at fault fails below too.
            if device == "cuda":
                raise
    return onnxruntime.InferenceSession(model, options, providers=[CPU])
