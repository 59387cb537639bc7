"""Latency of a router in ONNX Runtime: ``python -m connector.studies.router_latency [BUNDLE]``.

One query, one thread. Printed beside the product of one embedding with a matrix of a router's size in numpy, in the
same run, so that the figure says something on any machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from connector.errors import BackboneError, RhConnectorError
from connector.routing.bundle import Bundle, shipped_bundle

__all__ = ["main", "median_seconds"]

_CALLS = 2000


def median_seconds(call: Callable[[], object], calls: int = _CALLS) -> float:
    """Median seconds of a call, after some that are not counted."""
    taken = []
    for number in range(calls + calls // 10):
        started = time.perf_counter()
        call()
        if number >= calls // 10:
            taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def main(arguments: Sequence[str]) -> int:
    """Print the latency; the exit code, errors on standard error."""
    try:
        path = Path(arguments[0]) if arguments else shipped_bundle("smollm2-135m", "block")
        if path is None:
            raise BackboneError("no router is shipped here; name a bundle")
        bundle = Bundle.load(path)
    except RhConnectorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    dimension, members = bundle.metadata.embedding.dimension, len(bundle.metadata.pool)
    drawn = np.random.default_rng(0)
    embedding = drawn.standard_normal((1, dimension)).astype(np.float32)
    matrix = drawn.standard_normal((dimension, members)).astype(np.float32)
    router = median_seconds(lambda: bundle.gates(embedding))
    product = median_seconds(lambda: embedding @ matrix)
    print(f"{path.name}: {router * 1e3:.3f} ms a query, {bundle.size / 1000:.0f} kB")
    print(f"{router / product:.1f} times one product [1, {dimension}] x [{dimension}, {members}] in numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
