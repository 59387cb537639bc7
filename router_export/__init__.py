"""Export of trained routers to ONNX bundles, and of backbones to ONNX graphs.

Importing this loads neither torch nor ONNX.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from connector.checkpoints.checkpoint import Checkpoint
    from connector.routing.metadata import RouterMetadata
    from connector.training.router import Router
    from router_export.backbone.sources import Source
    from router_export.backbone.writing import ExportedGraphs
    from router_export.router.exporting import Exported

__all__ = ["export", "export_backbone"]


def export(
    router: Router, metadata: RouterMetadata, path: Path, embeddings: npt.NDArray[np.float32] | None = None
) -> Exported:
    """Write a router as a bundle that was found equal to it; an existing file is replaced at once or not at all.

    The same router and metadata give the same bytes.

    Args:
        router: trained.
        metadata: what the bundle says about itself.
        path: where it goes.
        embeddings: float32 [n, d], real query embeddings to verify it on; None: the router's own samples.

    Returns:
        The bundle, loaded from the file, and how it was verified.

    Raises:
        MissingExtraError: ``onnx`` or ONNX Runtime is not installed.
        BackboneError: metadata and router do not fit, the bundle's outputs are not the router's, or the file cannot
            be written. No file is left then, and an older one stays.
    """
    from router_export.router.exporting import export_router

    return export_router(router, metadata, path, embeddings)


def export_backbone(
    checkpoint: Checkpoint | Source,
    folder: Path,
    layers: int | None = None,
    precision: Literal["float32", "int8"] = "float32",
    *,
    compare: bool = True,
) -> ExportedGraphs:
    """Write the first layers of a backbone as ONNX graphs: see ``router_export.backbone.writing``."""
    from connector.checkpoints.checkpoint import Checkpoint
    from router_export.backbone.sources import Source
    from router_export.backbone.writing import export_backbone as write

    source = Source.of_checkpoint(checkpoint) if isinstance(checkpoint, Checkpoint) else checkpoint
    return write(source, folder, layers, precision, compare=compare)
