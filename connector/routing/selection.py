"""Which route a query takes: the router's, one fixed set of heads, or all heads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path

from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.backbone.reader import Reader
from connector.checkpoints.identifying import known_as
from connector.errors import BackboneError, RequestError
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.heads.likelihood import LikelihoodSignal
from connector.heads.needs import Needs
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Route
from connector.routing.bundle import Bundle
from connector.routing.formats import check_format, usable
from connector.routing.query_embedding import QueryEmbedding
from connector.routing.shipped_files import shipped_heads, shipped_router
from connector.sections import MODES, READOUTS, Mode, ReadOut, Settings

__all__ = [
    "Routes",
    "check_embedder",
    "choose_routes",
    "counts_nothing",
    "fixed_route",
    "likelihood_route",
    "load_bundle",
    "static_heads",
]

logger = logging.getLogger(__name__)


class Routes:
    """The routes that a reranker can take. Thread-safe.

    Args:
        reader: the LLM.
        default: the mode of requests that name none.
        fixed: routes that are the same for every query.
        bundle: the router, for the mode ``routed``.

    Raises:
        BackboneError: the router weighs an embedding model that the reader does not have.
    """

    def __init__(
        self, reader: Reader, default: Mode, fixed: Mapping[Mode, Route], bundle: Bundle | None = None
    ) -> None:
        self.default: Mode = default
        self.bundle = bundle
        self._reader = reader
        self._fixed = dict(fixed)
        self._embedding = None
        if bundle is not None:
            check_embedder(bundle, reader)
            made = bundle.metadata.embedding
            self._embedding = QueryEmbedding(made.form, made.layers, made.pooling, made.features)

    @classmethod
    def of_heads(cls, reader: Reader, heads: HeadSet, readout: ReadOut) -> Routes:
        """One fixed set of heads."""
        return cls(reader, "static", {"static": fixed_route(heads, readout)})

    @classmethod
    def from_settings(cls, settings: Settings, reader: Reader) -> Routes:
        """The routes that the settings name: see ``choose_routes``."""
        return cls(reader, *choose_routes(settings, reader.identity, reader))

    def check(self, mode: Mode | None) -> None:
        """Refuse a mode that cannot be taken.

        Raises:
            RequestError: there is no such mode, or nothing was loaded for it.
        """
        if mode is None:
            return
        if mode not in MODES:
            raise RequestError(f"router mode '{mode}' is none; give {', '.join(MODES)}")
        if mode not in self._fixed and (mode != "routed" or self.bundle is None):
            if mode == "all" and self._reader.layout == "solo":
                raise RequestError(
                    "router mode 'all' reads all heads, which the layout solo does not; start with "
                    "backbone.layout=late, or ask for another mode"
                )
            what = "router" if mode == "routed" else "head set"
            raise RequestError(
                f"router mode '{mode}': no {what} is loaded here; start with router.mode={mode} and a {what} for "
                f"this model, or ask for another mode"
            )

    def route(self, query: str, mode: Mode | None = None, first_stage: Sequence[float] | None = None) -> Route:
        """The heads for one query; with a router, one short pass of the LLM over the query alone.

        Args:
            query: the query.
            mode: None: the default.
            first_stage: first-stage scores of its window, in any order, where they are known.

        Raises:
            RequestError: see ``check``.
        """
        self.check(mode)
        mode = mode or self.default
        if mode == "routed" and self.bundle is not None and self._embedding is not None:
            if self.bundle.metadata.kappa == 0:
                # The query changes nothing: the pass over it is saved.
                return self.bundle.static_route()
            return self.bundle.route(self._embedding.of_query(self._reader, query, first_stage))
        return self._fixed[mode]

    def pool(self, mode: Mode | None = None) -> Needs:
        """What documents are encoded and cached for: the needs of any route but ``all``, if it is not asked.

        One pool for the router and the static set, so that both find the same documents in the cache.
        """
        mode = mode or self.default
        routes = [self._fixed["static"].needs] if "static" in self._fixed else []
        if self.bundle is not None:
            routes += [signal.needs for signal in self.bundle.signals]
        if mode == "all" or not routes:
            routes.append(self._fixed[mode].needs)
        return reduce(or_, routes)


def choose_routes(
    settings: Settings, identity: BackboneIdentity, reader: Reader | None = None
) -> tuple[Mode, dict[Mode, Route], Bundle | None]:
    """The mode, fixed routes and router that the settings name, or those shipped for the model and layout.

    ``router.mode`` ``auto`` is ``routed``, or ``static`` where there is no router for the model and layout.

    Args:
        settings: see ``load_settings``.
        identity: of the LLM.
        reader: the LLM, by which heads of another format of it are checked; None: what was never checked passes.

    Raises:
        BackboneError: a file is missing, damaged or made for something else, or there is none for the mode.
    """
    configured = settings.router.mode
    mode: Mode = "routed" if configured == "auto" else configured
    alone = settings.backbone.layout == "solo"
    # A head set that is named replaces the router; what is not asked for is not loaded.
    wanted = mode == "routed" or alone or settings.router.bundle is not None
    bundle = load_bundle(settings, identity, reader=reader) if wanted else None
    static, _ = static_heads(settings, identity, reader)
    readout: ReadOut = settings.rerank.readout
    fixed: dict[Mode, Route] = {}
    weight = static.all_weights.get(readout, 1.0) if static else 1.0
    if not alone:
        fixed["all"] = fixed_route(HeadSet(identity.shape.all_heads(), weight), readout)
    if static is not None and (mode == "static" or readout in static.sets):
        fixed["static"] = fixed_route(static.for_readout(readout), readout)
    elif bundle is not None:
        fixed["static"] = bundle.static_route()
    elif alone:
        # Read alone, documents show no attention that tells them apart; the likelihood needs no training.
        fixed["static"] = likelihood_route()
    if configured == "auto" and bundle is None:
        mode = "static"
    if mode != "routed" and mode not in fixed or mode == "routed" and bundle is None:
        if alone and mode == "all":
            raise BackboneError(
                "router.mode = all reads all heads, which the layout solo does not; set backbone.layout to late, or "
                "router.mode to auto"
            )
        what = "router" if mode == "routed" else "head set"
        command = "rh-connector train" if mode == "routed" else "rh-connector train --static"
        raise BackboneError(
            f"no {what} is shipped for {settings.backbone.model} in the layout {settings.backbone.layout}; make "
            f"one with '{command}', set router.bundle to its file, or set router.mode to "
            f"{'static' if alone else 'all'}"
        )
    return mode, fixed, bundle


def likelihood_route() -> Route:
    """How likely the LLM finds the query behind each document (UPR, arXiv 2204.07496), and the first stage beside it.

    The first stage's gate was found on queries of other collections than the documentation measures it on.
    """
    return Route((LikelihoodSignal("sum"),), (1.0,), 1.0)


def fixed_route(heads: HeadSet, readout: ReadOut) -> Route:
    """A head set as a route: every head counts the same."""
    signals = tuple(HeadSignal(layer, head, readout) for layer, head in heads.heads)
    return Route(signals, (1.0,) * len(signals), heads.weight, heads.scales)


def counts_nothing(settings: Settings, bundle: Bundle | None) -> str | None:
    """Of an embedding model beside the LLM that no router weighs: what to set; None: it counts, or there is none.

    Args:
        settings: see ``load_settings``.
        bundle: the router.
    """
    embedder, layout = settings.router.embedder, settings.backbone.layout
    if embedder is None or bundle is not None and bundle.metadata.similarities:
        return None
    if layout != "solo":
        return (
            f"router.embedder is {embedder}, which counts nothing in the layout {layout}; set backbone.layout to "
            "solo, or router.embedder to null"
        )
    router = "no router is here for" if bundle is None else f"the router {bundle.path.name} does not weigh"
    return (
        f"router.embedder is {embedder}, which {router}: it counts nothing; set router.bundle to a router that was "
        "trained with it (rh-connector train), or router.embedder to null"
    )


def check_embedder(bundle: Bundle, reader: Reader) -> None:
    """Can this reader give what the router weighs?

    Raises:
        BackboneError: see ``RouterMetadata.check_embedder``.
    """
    own = reader.embedder
    bundle.metadata.check_embedder(own.name if own else None, own.digest if own else None)


def static_heads(
    settings: Settings, identity: BackboneIdentity, reader: Reader | None = None
) -> tuple[StaticHeads | None, str | None]:
    """The static head sets that the settings name, or those shipped for the model and layout, and their file's name.

    Args:
        settings, identity, reader: see ``choose_routes``.

    Raises:
        BackboneError: the file is missing, damaged, or was made for something else.
    """
    named = settings.router.bundle
    path = shipped_heads(settings) if _is_router(named) else named
    if path is None:
        return None, None
    static = StaticHeads.load(path)
    try:
        _check_heads(static, settings, identity, reader, str(path))
    except BackboneError as error:
        _pass_over(settings, error)
        return None, None
    return static, path.name


def load_bundle(
    settings: Settings, identity: BackboneIdentity, path: Path | None = None, reader: Reader | None = None
) -> Bundle | None:
    """The router in a file, or the one that the settings name, or the one shipped for the model and layout.

    Args:
        settings, identity, reader: see ``choose_routes``.
        path: the file; None: what the settings say.

    Raises:
        BackboneError: the file is missing, damaged, or was made for something else.
    """
    named = path or settings.router.bundle
    path = named if named is not None and _is_router(named) else None
    if named is None:
        path = shipped_router(settings)
    if path is None:
        return None
    on_cpu = settings.router.provider == "auto" and settings.backbone.device == "cpu"
    bundle = Bundle.load(path, "cpu" if on_cpu else settings.router.provider)
    try:
        _check_router(bundle, settings, identity, reader)
    except BackboneError as error:
        if path == named:
            # Named by the settings, or by a caller.
            raise
        _pass_over(settings, error)
        return None
    return bundle


def _check_heads(
    static: StaticHeads, settings: Settings, identity: BackboneIdentity, reader: Reader | None, source: str
) -> None:
    stored = [
        (fixed_route(heads, readout), reference)
        for readout in READOUTS
        if (heads := static.sets.get(readout)) and (reference := usable(static.reference.get(readout)))
    ]
    another = static.fingerprint != identity.fingerprint and static.layout == settings.backbone.layout
    checkable = another and len(stored) == len(static.sets)
    own = None if checkable else identity.fingerprint
    static.check(own, identity.shape.layers, identity.shape.heads, source)
    if checkable:
        check_format(identity.fingerprint, reader, stored, settings.cache.path, source, static.model)


def _check_router(bundle: Bundle, settings: Settings, identity: BackboneIdentity, reader: Reader | None) -> None:
    metadata, shape, source = bundle.metadata, identity.shape, str(bundle.path)
    another = metadata.fingerprint != identity.fingerprint and metadata.layout == settings.backbone.layout
    reference = usable(metadata.reference) if another else None
    own = identity.fingerprint if reference is None else None
    metadata.check(own, identity.template_hash, shape.layers, shape.heads, source)
    if reference is not None:
        if reader is not None:
            check_embedder(bundle, reader)
        stored = [(bundle.static_route(), reference)]
        check_format(identity.fingerprint, reader, stored, settings.cache.path, source, metadata.model)


def _pass_over(settings: Settings, error: BackboneError) -> None:
    """Nobody asked for what is shipped for another format of the model: it is taken where it fits.

    Raises:
        BackboneError: it was named, or is the model's own.
    """
    model = settings.backbone.model
    if settings.router.bundle is not None or known_as(model, settings.cache.path) == model:
        raise error
    logger.warning("ranking without it: %s", error)


def _is_router(path: Path | None) -> bool:
    return path is None or path.suffix == ".onnx"
