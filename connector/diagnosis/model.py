"""The LLM's files, and the router or head set that goes with them, without loading any weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.checkpoints.catalogue import CATALOGUE
from connector.checkpoints.checkpoint import Checkpoint
from connector.checkpoints.hub import is_hub_id
from connector.checkpoints.pulling import find_damage, find_local, obtain
from connector.checkpoints.shape import BackboneShape
from connector.diagnosis.findings import Finding
from connector.embedding.embedder import Embedder, known_name
from connector.errors import BackboneError, DataError
from connector.golden import GOLDEN_ANSWER, GOLDEN_DOCUMENTS, GOLDEN_QUERY
from connector.heads.readouts import HeadSignal
from connector.installation import this_installation
from connector.routing.selection import choose_routes, counts_nothing
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.reranking.reranker import Reranker

__all__ = [
    "Load",
    "embedding_model",
    "golden_query",
    "heads",
    "identity",
    "local_checkpoint",
    "model",
    "model_error",
    "ranking",
]

Load: TypeAlias = Callable[[Settings], "Reranker"]
"""Makes the reranker that settings name."""

_CODE = BackboneError.exit_code


def local_checkpoint(settings: Settings) -> Checkpoint | None:
    """The checkpoint if it can be used without network and conversion.

    Raises:
        BackboneError: it is damaged, or there is nothing of that name.
    """
    name, cache = settings.backbone.model, settings.cache.path
    if name in CATALOGUE:
        return find_local(name, cache=cache)
    path = Path(name).expanduser()
    if not path.is_dir() and path.suffix.lower() == ".gguf" and path.is_file():
        return None
    return obtain(name, cache=cache, offline=True)


def model(settings: Settings, checkpoint: Checkpoint | None) -> Iterator[Finding]:
    """Are the weights here?"""
    name = settings.backbone.model
    if checkpoint is not None:
        size = sum(file.stat().st_size for file in checkpoint.weight_files())
        yield Finding("model", "ok", f"{name} is here, {size / 1e6:.0f} MB: {checkpoint.path}")
    elif Path(name).suffix.lower() == ".gguf":
        mend = f"rh-connector model pull {name} does it beforehand"
        yield Finding("model", "warn", f"{name} is here; it is converted at its first use, if it was not yet", mend)
    elif damage := find_damage(name, cache=settings.cache.path):
        seen, _, mend = damage.rpartition("; ")
        yield Finding("model", "fail", seen, mend, _CODE)
    elif settings.backbone.offline:
        mend = f"rh-connector --set backbone.offline=false model pull {name}"
        yield Finding("model", "fail", f"{name} is not here, and backbone.offline is set", mend, _CODE)
    else:
        yield Finding("model", "fail", f"{name} is not here", f"rh-connector model pull {name}", _CODE)


def model_error(settings: Settings, error: BackboneError) -> Finding:
    """The finding for a checkpoint that could not be opened."""
    seen, _, mend = str(error).rpartition("; ")
    if is_hub_id(settings.backbone.model) and "not in the hub's cache" in seen:
        offline = "--set backbone.offline=false " if settings.backbone.offline else ""
        # It was only looked for here, whatever the settings allow.
        seen, mend = (
            f"{settings.backbone.model} is not here",
            f"rh-connector {offline}model pull {settings.backbone.model}",
        )
    return Finding("model", "fail", seen or str(error), mend, error.exit_code)


def ranking(settings: Settings, identity: BackboneIdentity) -> str:
    """By what this model ranks with these settings, and how many of its layers are run for it.

    Raises:
        BackboneError: it cannot, with these settings.
    """
    mode, fixed, bundle = choose_routes(settings, identity)
    route = bundle.static_route() if mode == "routed" and bundle is not None else fixed[mode]
    others = [str(signal) for signal in route.signals if not isinstance(signal, HeadSignal)]
    heads_read = len(route.signals) - len(others)
    what = ", ".join([*([f"{heads_read} heads"] if heads_read else []), *others])
    layers, layout = identity.shape.layers, settings.backbone.layout
    source = f", router {bundle.path.name}" if mode == "routed" and bundle is not None else ""
    return f"{what}; {route.needs.depth(layers)} of {layers} layers are run (layout {layout}{source})"


def identity(settings: Settings, checkpoint: Checkpoint) -> BackboneIdentity:
    """Of the LLM with these settings; what routers and head sets must fit.

    Raises:
        BackboneError: a file of the checkpoint is damaged.
    """
    tokenizer = Tokenizer.from_folder(checkpoint.path)
    shape = BackboneShape.from_config(checkpoint.config(), str(checkpoint.path / "config.json"))
    template = PromptTemplate.from_folder(checkpoint.path, tokenizer)
    return BackboneIdentity.of(checkpoint.digest(), template, settings.backbone.layout, shape)


def heads(settings: Settings, identity: BackboneIdentity) -> Iterator[Finding]:
    """Do router and head set fit this model, template and layout?"""
    mode, _, bundle = choose_routes(settings, identity)
    layout = f"{settings.backbone.model}, layout {settings.backbone.layout}"
    if mode == "routed" and bundle is not None and bundle.metadata.fingerprint != identity.fingerprint:
        seen = f"router {bundle.path.name} was made with another format of {layout}; loading checks its scores"
        yield Finding("heads", "ok", seen)
    elif mode == "routed" and bundle is not None:
        yield Finding("heads", "ok", f"router {bundle.path.name} fits {layout}")
    elif mode == "all":
        yield Finding("heads", "ok", f"all heads of {layout}")
    elif settings.router.mode in ("auto", "routed"):
        mend = "rh-connector train makes a router; or set router.mode to static"
        yield Finding("heads", "warn", f"static heads fit {layout}; there is no router for it", mend)
    else:
        yield Finding("heads", "ok", f"static heads fit {layout}")


def embedding_model(settings: Settings, identity: BackboneIdentity) -> Iterator[Finding]:
    """Is the embedding model beside the LLM here, and does the router weigh it?

    Raises:
        BackboneError: the router weighs another one.
    """
    name, named = "embedding model", settings.router.embedder
    _, _, bundle = choose_routes(settings, identity)
    if named is None:
        if bundle is not None:
            bundle.metadata.check_embedder(None, None)
        return
    try:
        # Nothing is fetched here.
        own = Embedder.load(named, offline=True, device=settings.backbone.device)
    except DataError as error:
        seen, _, mend = str(error).rpartition("; ")
        if known_name(named) is not None and not Path(named).expanduser().is_dir():
            offline = "--set backbone.offline=false " if settings.backbone.offline else ""
            pull = f"rh-connector {offline}--set router.embedder={named} model pull {settings.backbone.model}"
            seen, mend = f"{named} is not here", pull
        yield Finding(name, "fail", seen, mend, error.exit_code)
        return
    if told := counts_nothing(settings, bundle):
        seen, _, mend = told.rpartition("; ")
        yield Finding(name, "warn", seen, mend)
    elif bundle is not None:
        bundle.metadata.check_embedder(own.name, own.digest)
        yield Finding(name, "ok", f"{own.name} ({own.digest[:12]}), which {bundle.path.name} weighs")


def golden_query(settings: Settings, load: Load) -> Iterator[Finding]:
    """Load the model, tell what this machine lets it do, and rerank three documents.

    Args:
        settings: see ``load_settings``; nothing is fetched, whatever they say.
        load: see ``diagnose``.
    """
    backbone = settings.backbone.model_copy(update={"offline": True})
    began = time.monotonic()
    reranker = load(settings.model_copy(update={"backbone": backbone}))
    loaded = time.monotonic()
    yield _plan(reranker.reader.plan)
    result = reranker.rerank(GOLDEN_QUERY, GOLDEN_DOCUMENTS)
    seen = (
        f"loaded in {loaded - began:.1f} s, three documents reranked in {(time.monotonic() - loaded) * 1000:.0f} ms"
    )
    if reranker.cascade is not None:
        seen = f"{seen}, {result.second_hits or 0} of them read by {reranker.cascade.name} too"
        if not result.second_hits and settings.cascade.budget_ms is None:
            mend = "look at the log above; set cascade.model to null until it is mended"
            yield Finding("golden query", "fail", seen, mend, _CODE)
            return
    if result.reranked and result.hits[0].index == GOLDEN_ANSWER:
        yield Finding("golden query", "ok", seen)
    else:
        why = "the answer is not the first hit" if result.reranked else f"not reranked ({result.reason})"
        mend = f"rh-connector model show {settings.backbone.model} checks its files; try router.mode static"
        yield Finding("golden query", "fail", f"{seen}, but {why}", mend, _CODE)


def _plan(plan: Mapping[str, str]) -> Finding:
    """Is the LLM as fast as it could be here?"""
    seen = "; ".join(f"{subject}: {said}" for subject, said in plan.items())
    if plan.get("operations", "all there") != "all there":
        mend = (
            f"run: {this_installation().changing('--upgrade', 'torch')}; or install a newer rh-connector; until then "
            "it is slower, with the same answers"
        )
        return Finding("plan", "warn", seen, mend)
    if plan.get("weights", "packed") != "packed":
        mend = "set backbone.dtype to auto, or install a torch that was built with oneDNN"
        return Finding("plan", "warn", seen, mend)
    return Finding("plan", "ok", seen)
