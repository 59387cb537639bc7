"""From rows to ratios, and both to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.benchmark.measuring import Timing
from connector.errors import DataError

__all__ = ["RATIOS", "WindowSizes", "ratios", "read_report"]

_Sum = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowSizes:
    """Documents of a window: ``small`` is compared with the peers, ``large`` is for late only."""

    small: int
    middle: int
    large: int


# name -> (rows that are added up, rows that they are divided by); {s} {m} {l}: windows, {layout}: of the settings.
RATIOS: Mapping[str, tuple[_Sum, _Sum]] = {
    "warm_solo_over_cross_encoder": (("warm_solo_{s}",), ("cross_encoder_onnx_{s}",)),
    "warm_solo_over_cross_encoder_torch": (("warm_solo_{s}",), ("cross_encoder_torch_{s}",)),
    "warm_solo_{m}_over_{s}": (("warm_solo_{m}",), ("warm_solo_{s}",)),
    "warm_late_over_cross_encoder": (("warm_late_{s}",), ("cross_encoder_onnx_{s}",)),
    "warm_solo_over_cross_encoder_int8": (("warm_solo_{s}",), ("cross_encoder_onnx_int8_{s}",)),
    "warm_late_over_cross_encoder_int8": (("warm_late_{s}",), ("cross_encoder_onnx_int8_{s}",)),
    "cold_over_cross_encoder": (("cold_{layout}_{s}",), ("cross_encoder_onnx_{s}",)),
    "cold_over_icr": (("cold_{layout}_{s}",), ("icr_{s}",)),
    "cold_over_floor": (("encode_{layout}_{s}",), ("floor_{layout}_{s}",)),
    "warm_late_{l}_over_cross_encoder_{s}": (("warm_late_{l}",), ("cross_encoder_onnx_{s}",)),
    "clients_8_over_1": (("clients_1_{s}",), ("clients_8_{s}",)),
    "http_part": (("http_overhead_{s}", "http_fusion_{s}"), ("http_{s}",)),
}
"""Ratios of medians. ``clients_8_over_1`` is of throughputs: seconds a request of one client over those of eight."""


def ratios(
    rows: Sequence[Timing], windows: WindowSizes, layout: str
) -> tuple[dict[str, float], dict[str, dict[str, list[str]]]]:
    """The ratios whose rows were measured, and the names of the rows that each was computed from."""
    seconds = {row.name: row.seconds for row in rows}
    found: dict[str, float] = {}
    made: dict[str, dict[str, list[str]]] = {}
    sizes = {"s": windows.small, "m": windows.middle, "l": windows.large, "layout": layout}
    for template, sides in RATIOS.items():
        name = template.format(**sizes)
        over, under = ([row.format(**sizes) for row in side] for side in sides)
        if all(row in seconds for row in (*over, *under)):
            found[name] = sum(seconds[row] for row in over) / sum(seconds[row] for row in under)
            made[name] = {"over": over, "under": under}
    return found, made


def read_report(path: Path) -> dict[str, Any]:
    """A report as ``rh-connector bench --out`` writes it.

    Raises:
        DataError: the file cannot be read, or is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no report of rh-connector bench ({error})") from None
    if not isinstance(value, dict) or not {"machine", "rows", "ratios"} <= value.keys():
        raise DataError(
            f"{path} is no report: it lacks machine, rows or ratios; make it with rh-connector bench --out"
        )
    return value
