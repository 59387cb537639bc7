"""Latency and throughput against the number of clients, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.charts import BETTER, INK, SAME, WORSE, axes_of, svg

__all__ = ["plot"]


def plot(steps: Sequence[Mapping[str, Any]]) -> str:
    """SVG of cached documents' p50, p95 and p99.

    Args:
        steps: as ``load.Step`` has them.
    """
    ordered = sorted(steps, key=lambda step: step["clients"])
    figure, axes = axes_of(3.2)
    places = range(len(ordered))
    for at, (name, colour) in enumerate((("p50", BETTER), ("p95", SAME), ("p99", WORSE))):
        axes.plot(places, [step["warm"][at] for step in ordered], color=colour, marker="o", label=name)
    for place, step in zip(places, ordered, strict=True):
        told = f"{step['a_second']:.1f} a second\n{step['refused']:,} refused"
        axes.annotate(told, (place, step["warm"][2]), (0, 6), textcoords="offset points", ha="center", color=INK)
    axes.set_xticks(list(places), [str(step["clients"]) for step in ordered])
    axes.set(xlabel="clients", ylabel="seconds of a request")
    axes.margins(0.12, 0.3)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
    return svg(figure, "Latency against the number of clients", alone=True)
