"""Latency and throughput against the number of clients, and memory against time, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.charts import BETTER, INK, SAME, WORSE, panels_of, svg

__all__ = ["plot"]


def plot(steps: Sequence[Mapping[str, Any]]) -> str:
    """SVG of cached documents' p50, p95 and p99, and of what the service held.

    Args:
        steps: as ``load.Step`` has them.
    """
    ordered = sorted(steps, key=lambda step: step["clients"])
    figure, (axes, held) = panels_of(3.4, 2, same_heights=False)
    places = range(len(ordered))
    for at, (name, colour) in enumerate((("p50", BETTER), ("p95", SAME), ("p99", WORSE))):
        axes.plot(places, [step["warm"][at] for step in ordered], color=colour, marker="o", label=name)
    for place, step in zip(places, ordered, strict=True):
        told = f"{step['a_second']:.1f} a second\n{step['refused']:,} refused"
        axes.annotate(
            told, (place, step["warm"][2]), (0, 6), textcoords="offset points", ha="center", color=INK, fontsize=7
        )
    axes.set_xticks(list(places), [str(step["clients"]) for step in ordered])
    axes.set(xlabel="clients", ylabel="seconds of a request")
    axes.margins(0.2, 0.3)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
    for step, style in zip(ordered, ("-", "--", "-.", ":"), strict=False):
        # As many measures as there are, evenly over the step.
        minutes = [step["minutes"] * at / len(step["memory"]) for at in range(len(step["memory"]))]
        gigabytes = [one / 1000 for one in step["memory"]]
        held.plot(
            minutes,
            gigabytes,
            color=BETTER,
            linestyle=style,
            label=f"{step['clients']} client{'s' * (step['clients'] > 1)}",
        )
    held.set(xlabel="minutes", ylabel="GB resident")
    held.set_ylim(bottom=0)
    held.legend(frameon=False, loc="lower right", fontsize=8)
    return svg(figure, "Latency against the number of clients, and memory against time", alone=True)
