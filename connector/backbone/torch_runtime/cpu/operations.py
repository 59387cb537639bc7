"""torch's private operations that the fast path uses. A newer torch may lack any of them, or give them other ways.

All of them stand here, so that what is missing can be told: nothing else of ours notices, it only becomes slower.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

import torch

__all__ = ["OPERATIONS", "missing_operations", "multiplies_bfloat16"]

_BFLOAT16: Final = ("cpu._is_avx512_bf16_supported", "cpu._is_amx_tile_supported")
OPERATIONS: Final = (
    "ops.mkldnn._reorder_linear_weight",
    "ops.mkldnn._linear_pointwise",
    "ops.mkldnn._linear_pointwise.binary",
    *_BFLOAT16,
)
"""Names below ``torch``."""


def missing_operations() -> tuple[str, ...]:
    """Those of ``OPERATIONS`` that this torch lacks."""
    return tuple(name for name in OPERATIONS if _found(name) is None)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; elsewhere it is emulated, slower than float32."""
    return any(check() for check in map(_found, _BFLOAT16) if check is not None)


def _found(name: str) -> Callable[..., Any] | None:
    try:
        operation: Callable[..., Any] = attrgetter(name)(torch)
    except AttributeError:
        return None
    return operation
