"""A cascade measured: what a second LLM makes of the hits that the router ranked first.

It reads what it would read in a search: the first ``cascade.hits`` documents with text, in the order of the row. So
the rows ``cascade`` and ``cascade+first-stage`` have it read different documents; of a query both are read at once.
It reads here, also where workers read for the first LLM: those hold one LLM each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from connector.backbone.open_reader import reader_from
from connector.backbone.reader import Reader
from connector.documents import Hit, document_text
from connector.errors import BackboneError
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES
from connector.evaluation.progress import Progress
from connector.evaluation.report import make_system
from connector.evaluation.routed_systems import fused_values, head_values, route_summary
from connector.evaluation.running import FUSED, POOL, Ranked, Windows, measures_of, reliability_of
from connector.heads.routes import Route
from connector.reranking.cascade import Cascade, cascaded, check_absolute
from connector.reranking.second_settings import second_settings
from connector.routing.bundle import Bundle
from connector.routing.opening import open_reader
from connector.routing.selection import Routes
from connector.sections import Settings
from connector.statistics.head_tables import SearchedQuery, statistics_folder
from connector.statistics.signal_tables import SignalTable, gather_signals

__all__ = ["CASCADE", "cascade_systems", "open_cascade"]

CASCADE = "cascade"
"""Name of the row."""
Floats = npt.NDArray[np.float64]


def open_cascade(
    settings: Settings,
    reader: Reader,
    router: Bundle | None,
    source: Reader | Callable[[Settings], Reader],
    second: Reader | None,
) -> tuple[Cascade | None, list[str]]:
    """The second LLM of the settings, without a bound on its time, and what whoever reads its rows should know.

    Args:
        settings: see ``load_settings``.
        reader, router: the first LLM, and the router that is measured.
        source: see ``evaluate``: what loads an LLM loads the second one, too.
        second: the second LLM, where it is loaded already; None: it is loaded.

    Returns:
        None where the settings name none.

    Raises:
        SettingsError: the layout is not ``solo``, or the second LLM reads in another one.
        BackboneError: one of the two has no router whose scores are log-odds; or see ``open_reader``.
    """
    own = second_settings(settings)
    if own is None:
        return None, []
    check_absolute(Routes(reader, "routed", {}, router), settings.backbone.model, "backbone")
    loading = open_reader if isinstance(source, Reader) else source
    second = reader_from(loading if second is None else second, own)
    told = settings.cascade
    notes = []
    if told.budget_ms is not None:
        notes.append(
            f"cascade.budget_ms = {told.budget_ms} is not measured: here {told.model} reads all of the first "
            f"{told.hits} hits, however long it takes"
        )
    return Cascade(second, Routes.from_settings(own, second), own.backbone.model, told.hits), notes


@dataclass(frozen=True, slots=True)
class _First:
    """What the first LLM makes of a query's window.

    Attributes:
        heads: float64 [hits]: log-odds.
        read: whether fused -> places of the hits that the second LLM reads.
    """

    heads: Floats
    read: Mapping[bool, Sequence[int]]

    @property
    def wanted(self) -> list[int]:
        """Places of what it reads for either row, each once."""
        return list(dict.fromkeys(at for fused in (True, False) for at in self.read[fused]))


def cascade_systems(
    cascade: Cascade,
    collection: Collection,
    windows: Windows,
    tables: Sequence[SignalTable],
    route: Route,
    ranked: Sequence[Ranked],
    *,
    cache: Path,
    fields: Sequence[str],
    seed: int,
    progress: Progress,
) -> list[Ranked]:
    """Both LLMs' head scores, alone and fused with the first stage.

    What the second LLM reads is kept as the first one's numbers are: a run that was stopped goes on.

    Args:
        cascade: see ``open_cascade``.
        collection, windows, seed: see ``signal_systems``.
        tables: the first LLM's signals of the queries whose window has any text.
        route: the first LLM's, with the first stage's weight.
        ranked: the other rows, the first stage first, among them ``routed``.
        cache: folder of all caches.
        fields: of the hits that are read; empty: all text fields.
        progress: told how many queries the second LLM has read.

    Raises:
        BackboneError: the second LLM failed.
        DataError: see ``measures_of``.
    """
    by_query = {table.query_id: table for table in tables}
    first = {query: _first(windows[query], table, route, cascade.hits, fields) for query, table in by_query.items()}
    second = _second(cascade, collection, windows, first, cache, fields, progress)
    others = {each.system.name: each.values[MEASURES[0]] for each in ranked}
    found = []
    for fused, suffix in ((False, ""), (True, FUSED)):
        values, rankings = {}, {}
        for query, hits in windows.items():
            rankings[query] = [hit.id for hit in hits]
            if query not in first:
                continue
            read = first[query].read[fused]
            said = np.array([second[query][hits[at].id] for at in read])
            heads = cascaded(first[query].heads, read, said)
            values[query] = fused_values(hits, by_query[query], route, heads, fused=fused)
            rankings[query] = [hits[at].id for at in np.argsort(-values[query], kind="stable")]
        measured = measures_of(collection, windows, rankings)
        system = make_system(
            f"{CASCADE}{suffix}",
            measured,
            ranked[0].values,
            readout=POOL,
            heads=len(route.heads),
            head_list=route.heads,
            seed=seed,
            against={"routed": others[f"routed{suffix}"]},
            route=route_summary([dict.fromkeys(first, route)]),
            reliability=reliability_of(collection, windows, values),
        )
        found.append(Ranked(system, measured, rankings))
    return found


def _first(hits: Sequence[Hit], table: SignalTable, route: Route, most: int, fields: Sequence[str]) -> _First:
    heads, texts = head_values(hits, table, route)
    words = [document_text(hit.fields, fields) for hit in hits]
    read = {}
    for fused in (False, True):
        order = np.argsort(-fused_values(hits, table, route, heads, fused=fused), kind="stable").tolist()
        with_text = [at for at in order if texts[at]]
        # What is said of a text is said of all hits that have it, as in a search.
        said = {words[at] for at in with_text[:most]}
        read[fused] = [at for at in with_text if words[at] in said]
    return _First(heads, read)


def _second(
    cascade: Cascade,
    collection: Collection,
    windows: Windows,
    first: Mapping[str, _First],
    cache: Path,
    fields: Sequence[str],
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Query -> document -> log-odds by the second LLM.

    Raises:
        BackboneError: they are not finite.
    """
    assert cascade.routes.bundle is not None
    # As of the first LLM: routers of the layout solo weigh alike for every query.
    route = cascade.routes.bundle.static_route()
    hits = {query: [windows[query][at] for at in own.wanted] for query, own in first.items()}
    searched = (SearchedQuery(query, collection.queries[query], own) for query, own in hits.items())
    needs = replace(route.needs, heads=(), groups=())
    folder = statistics_folder(cache, cascade.reader)
    tables = gather_signals(cascade.reader, searched, folder, needs, fields)
    found = {}
    for table in progress.track(f"signals of {cascade.name}, {collection.name}", tables, len(hits)):
        own = hits[table.query_id]
        scores, _ = head_values(own, table, route)
        if not np.isfinite(scores).all():
            raise BackboneError(f"a head score of {cascade.name} is not finite; check the weights and the dtype")
        found[table.query_id] = dict(zip((hit.id for hit in own), scores.tolist(), strict=True))
    return found
