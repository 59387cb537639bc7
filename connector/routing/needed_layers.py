"""How deep the routers and head sets of a model look: an export holds no layer that none of them reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from connector.heads.head_sets import StaticHeads, check_layout
from connector.routing.bundle import Bundle
from connector.routing.shipped_files import shipped_heads, shipped_router, shipped_routers
from connector.sections import LAYOUTS, Settings

__all__ = ["layers_read", "needs_likelihood"]


def layers_read(settings: Settings) -> int | None:
    """Layers that what is configured or shipped for the model, in any layout, reads; None: all.

    Raises:
        BackboneError: a file that is configured is missing, damaged, or of a layout that is gone.
    """
    if settings.router.mode == "all":
        return None
    read = set()
    for path in _files(settings):
        if path.suffix == ".onnx":
            metadata = Bundle.load(path).metadata
            check_layout(metadata.layout, str(path))
            # States that enter a layer come out of its graph.
            probed = {layer for probe in metadata.probes for layer in probe.layers}
            read |= {metadata.deepest_layer, *metadata.embedding.layers, *probed}
        else:
            static = StaticHeads.load(path)
            check_layout(static.layout, str(path))
            read |= {layer for heads in static.sets.values() for layer, _ in heads.heads}
    return max(read) + 1 if read else None


def needs_likelihood(settings: Settings) -> bool:
    """Whether documents are ranked by how likely they find the query, which takes the LLM's last layer and more.

    Raises:
        BackboneError: the router that is configured is missing or damaged.
    """
    layout = settings.backbone.layout
    named = settings.router.bundle
    if layout != "solo":
        return False
    bundle = shipped_router(settings) if named is None else named
    if bundle is None or bundle.suffix != ".onnx":
        return named is None and shipped_heads(settings) is None
    return bool(Bundle.load(bundle).metadata.likelihoods)


def _files(settings: Settings) -> Iterator[Path]:
    if settings.router.bundle is not None:
        yield settings.router.bundle
    for layout in LAYOUTS:
        if (heads := shipped_heads(settings, layout)) is not None:
            yield heads
        # The same graphs serve with an embedding model beside the LLM and without.
        yield from shipped_routers(settings, layout)
