"""What a search pipeline does to real searches: ``python -m connector.studies.pipeline_proof FOLDER``.

The cluster's index must hold the collection, the pipeline must be installed, and the service must run. Quality: each
query is searched through the pipeline and ranked by the library, from the same hits; with ``--keep FILE`` what was
killed goes on where it was. Load: many clients search with the pipeline and without it, in turns; no search may fail
and no hit may be lost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from connector.documents import Hit
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, Connection
from connector.engines.cluster.query import text_fields, words_query
from connector.errors import RhConnectorError
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.measures import mean, per_query
from connector.evaluation.running import drawn_queries
from connector.evaluation.runs import read_run
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback.proving import was_reranked
from connector.writeback.search_pipeline import PipelinePlan

__all__ = ["Load", "Quality", "load", "quality"]


@dataclass(frozen=True, slots=True)
class Quality:
    """nDCG@10 of the same queries.

    Attributes:
        queries: how many.
        reranked: of them, those that the pipeline answered reranked.
        same_order: of them, those with the library's order.
        first_stage, library, pipeline: nDCG@10, mean.
    """

    queries: int
    reranked: int
    same_order: int
    first_stage: float
    library: float
    pipeline: float


@dataclass(frozen=True, slots=True)
class Load:
    """Searches by several clients at once, in milliseconds as the client sees them.

    Attributes:
        searches, clients: of each kind, with and without the pipeline.
        failed: answers other than 200.
        lost: reranked pages that do not hold the hits of the plain search.
        reranked: pages that came back reranked.
    """

    searches: int
    clients: int
    failed: int
    lost: int
    reranked: int
    plain_p50: float
    plain_p95: float
    pipeline_p50: float
    pipeline_p95: float


# Query id, query, its first-stage hits -> ids.
Library = Callable[[str, str, list[Hit]], list[str]]


class Searches:
    """Searches of one index, with the pipeline and without it."""

    def __init__(self, connection: Connection, settings: Settings, plan: PipelinePlan) -> None:
        self._connection = connection
        self._path = f"/{quote(settings.engine.index, safe='*,-_.')}"
        self._known = text_fields(connection.request("GET", f"{self._path}/_mapping"))
        self._weights = settings.engine.field_weights()
        self._size = settings.rerank.window
        self.plan = plan

    def __call__(self, text: str, pipeline: str) -> dict[str, Any]:
        """The cluster's answer."""
        first = words_query(text, self._weights, self._known, self._path)
        body = {**self.plan.search(text, first), "size": self._size}
        answer = self._connection.request("POST", f"{self._path}/_search", body, {"search_pipeline": pipeline})
        assert isinstance(answer, dict)
        return answer


def quality(searches: Searches, collection: Collection, library: Library, keep: Path | None = None) -> Quality:
    """The pipeline against the library, from the same hits.

    Args:
        searches: of the collection's index.
        collection: its queries and judgments.
        library: query id, query, its first-stage hits -> ids in the library's order.
        keep: file of one JSON line a query; queries in it are not searched again.
    """
    kept = _kept(keep)
    for query, text in collection.queries.items():
        if query in kept:
            continue
        hits = searches(text, "_none")["hits"]["hits"]
        # As the processor does: the places are known, the scores are not sent.
        window = [Hit(hit["_id"], None, hit["_source"]) for hit in hits]
        through = searches(text, searches.plan.name)
        kept[query] = {
            "reranked": was_reranked(through, searches.plan),
            "first_stage": [hit.id for hit in window],
            "library": library(query, text, window),
            "pipeline": [hit["_id"] for hit in through["hits"]["hits"]],
        }
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"query": query, **kept[query]}) + "\n")
    asked = {query: kept[query] for query in collection.queries}
    found = {
        name: mean(
            per_query(["nDCG@10"], collection.qrels, {query: one[name] for query, one in asked.items()})["nDCG@10"]
        )
        for name in ("first_stage", "library", "pipeline")
    }
    reranked = sum(one["reranked"] for one in asked.values())
    same = sum(one["library"] == one["pipeline"] for one in asked.values())
    return Quality(len(asked), reranked, same, **found)


def _ranking(settings: Settings) -> Library:
    reranker = Reranker.from_settings(settings)
    return lambda query, text, hits: [str(hit.id) for hit in reranker.rerank(text, hits).hits] if hits else []


def _reading(run: Path) -> Library:
    orders = read_run(run)
    return lambda query, text, hits: [entry.id for entry in orders.get(query, [])]


def _kept(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None or not file.exists():
        return {}
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    # A kill leaves half a line, which the next one must not be written behind.
    file.write_text("".join(whole), encoding="utf-8")
    return {entry.pop("query"): entry for entry in map(json.loads, whole)}


def load(searches: Searches, texts: Sequence[str], count: int, clients: int) -> Load:
    """``count`` searches of each kind by so many clients at once."""
    failed = lost = done = 0
    known = {text: _ids(searches(text, "_none")) for text in dict.fromkeys(texts)}
    times: dict[str, list[float]] = {"_none": [], searches.plan.name: []}

    def one(job: tuple[str, str]) -> tuple[str, float, str, dict[str, Any] | None]:
        text, pipeline = job
        began = time.perf_counter()
        try:
            answer = searches(text, pipeline)
        except ClusterError:
            answer = None
        return pipeline, (time.perf_counter() - began) * 1000, text, answer

    for pipeline in times:
        jobs = [(texts[number % len(texts)], pipeline) for number in range(count)]
        with ThreadPoolExecutor(clients) as pool:
            for name, milliseconds, text, answer in pool.map(one, jobs):
                times[name].append(milliseconds)
                if answer is None:
                    failed += 1
                    continue
                lost += _ids(answer) != known[text]
                done += pipeline != "_none" and was_reranked(answer, searches.plan)
    plain, through = times.values()
    return Load(count, clients, failed, lost, done, *_percentiles(plain), *_percentiles(through))


def _ids(answer: dict[str, Any]) -> list[str]:
    return sorted(hit["_id"] for hit in answer["hits"]["hits"])


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=20)
    return round(cuts[9], 1), round(cuts[18], 1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--config", help="Settings file: engine.*, writeback.*, rerank.window as for pipeline install.")
@click.option("--route", type=click.Choice(["rerank", "scores"]), default="rerank", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="At most so many test queries, drawn with seed 0.")
@click.option(
    "--run", type=click.Path(path_type=Path), help="TREC run with the library's order, of evaluate --by-rank --runs."
)
@click.option("--keep", type=click.Path(path_type=Path), help="File for what is done, to go on from after a kill.")
@click.option("--searches", "count", type=click.IntRange(0), default=200, show_default=True, help="0: no load.")
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--load-queries", type=click.IntRange(1), default=12, show_default=True, help="Different ones in the load."
)
def main(
    folder: Path,
    config: str | None,
    route: Any,
    limit: int | None,
    run: Path | None,
    keep: Path | None,
    count: int,
    clients: int,
    load_queries: int,
) -> None:
    """Print quality and load as one line of JSON each."""
    settings = load_settings(config)
    plan = PipelinePlan.of(settings, route)
    connection = connect(settings.engine)
    collection = drawn_queries(load_collection(folder, "test"), limit, 0)
    searches = Searches(connection, settings, plan)
    library = _ranking(settings) if run is None else _reading(run)
    found = quality(searches, collection, library, keep)
    click.echo(json.dumps({"collection": collection.name, "route": route, "quality": asdict(found)}))
    if count:
        under = load(searches, list(collection.queries.values())[:load_queries], count, clients)
        click.echo(json.dumps({"collection": collection.name, "route": route, "load": asdict(under)}))


if __name__ == "__main__":
    try:
        main()
    except RhConnectorError as error:
        raise SystemExit(f"Error: {error}") from None
