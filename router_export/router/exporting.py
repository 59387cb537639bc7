"""Writing a bundle: built, loaded again, compared with the router, and only then put in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from connector.errors import BackboneError
from connector.heads.head_sets import check_layout
from connector.routing.bundle import OUTPUTS, Bundle
from connector.routing.metadata import RouterMetadata
from connector.storage_faults import storage_mend
from connector.whole_files import replacing
from router_export.router.graph import bundle_bytes

if TYPE_CHECKING:
    from connector.training.router import Router

__all__ = ["TOLERANCE", "Exported", "export_router"]

TOLERANCE = 1e-5
_RANDOM = 256
_ALONE = 64


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written.

    Attributes:
        bundle: loaded from the file.
        difference: largest absolute difference of an output from torch's.
        real: how many real query embeddings it was verified on.
        random: how many random ones.
    """

    bundle: Bundle
    difference: float
    real: int
    random: int


def export_router(
    router: Router, metadata: RouterMetadata, path: Path, embeddings: npt.NDArray[np.float32] | None
) -> Exported:
    """See ``router_export.export``."""
    if path.suffix != ".onnx":
        raise BackboneError(f"{path}: the file of a router bundle ends in .onnx")
    check_layout(metadata.layout, path.name)
    from connector.training.router import CLIP

    router.check(metadata)
    arrays = router.arrays()
    real = arrays["samples"] if embeddings is None else embeddings
    try:
        # The ending stays .onnx: a loader may go by it.
        with replacing(path, ".onnx") as part:
            probes = [weights.numpy() for weights in router.probes]
            part.write_bytes(bundle_bytes(arrays, metadata, CLIP, probes))
            bundle = Bundle.load(part)
            difference = _verify(router, bundle, real, _random(arrays))
    except OSError as error:
        mend = storage_mend(error, "name another file")
        raise BackboneError(f"cannot write the router bundle {path}: {error.strerror or error}; {mend}") from None
    return Exported(replace(bundle, path=path), difference, len(real), _RANDOM)


def _random(arrays: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Embeddings as standardization expects them, always the same."""
    center, spread = arrays["center"].astype(np.float64), arrays["spread"].astype(np.float64)
    drawn = np.random.default_rng(0).standard_normal((_RANDOM, len(center)))
    embeddings = (center + spread * drawn).astype(np.float32)
    # Some of what a router takes may be unknown.
    embeddings[::4, -1] = np.nan
    return embeddings


def _verify(router: Router, bundle: Bundle, real: npt.NDArray[np.float32], random: npt.NDArray[np.float32]) -> float:
    """The largest difference; in one batch, and some of them alone."""
    largest = 0.0
    for name, given in (("real", real), ("random", random)):
        if not len(given):
            continue
        largest = max(largest, _compare(router, bundle, given, name))
        for at in range(min(len(given), _ALONE)):
            largest = max(largest, _compare(router, bundle, given[at : at + 1], f"{name} (number {at + 1} alone)"))
    return largest


def _compare(router: Router, bundle: Bundle, embeddings: npt.NDArray[np.float32], name: str) -> float:
    # First: it refuses embeddings of another shape.
    gates, selected, first_stage = bundle.gates(embeddings)
    torch_gates, torch_selected, torch_first_stage = router.gates(embeddings)
    if not np.array_equal(selected, torch_selected):
        raise BackboneError(
            f"the export is not the router: ONNX Runtime selects other heads than torch on {name} embeddings; "
            "nothing was written"
        )
    largest = 0.0
    for output, own, torch_own in ((OUTPUTS[0], gates, torch_gates), (OUTPUTS[2], first_stage, torch_first_stage)):
        difference = float(np.abs(own.astype(np.float64) - torch_own).max(initial=0.0))
        if not difference <= TOLERANCE:
            raise BackboneError(
                f"the export is not the router: {output} differs from torch's by {difference:.2g} on {name} "
                f"embeddings, more than {TOLERANCE:g}; nothing was written"
            )
        largest = max(largest, difference)
    return largest
