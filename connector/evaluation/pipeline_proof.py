"""What a search pipeline does to real searches: ``python -m connector.evaluation.pipeline_proof FOLDER``.

The cluster's index must hold the collection, the pipeline must be installed, and the service must run. Quality: each
query is searched through the pipeline and ranked by the library, from the same hits. Load: many clients search with
the pipeline and without it, in turns; no search may fail and no hit may be lost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from connector.documents import Hit
from connector.engines.cluster_query import text_fields, words_query
from connector.engines.connection import ClusterError, Connection, connect
from connector.errors import RhConnectorError
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.measures import mean, per_query
from connector.evaluation.running import drawn_queries
from connector.reranker import Reranker
from connector.settings import Settings, load_settings
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


def quality(searches: Searches, collection: Collection, reranker: Reranker) -> Quality:
    """The pipeline against the library, from the same hits."""
    orders: dict[str, dict[str, list[str]]] = {"first_stage": {}, "library": {}, "pipeline": {}}
    reranked = 0
    for query, text in collection.queries.items():
        hits = searches(text, "_none")["hits"]["hits"]
        # As the processor does: the places are known, the scores are not sent.
        window = [Hit(hit["_id"], None, hit["_source"]) for hit in hits]
        through = searches(text, searches.plan.name)
        reranked += was_reranked(through, searches.plan)
        orders["first_stage"][query] = [hit.id for hit in window]
        orders["library"][query] = [str(hit.id) for hit in reranker.rerank(text, window).hits] if window else []
        orders["pipeline"][query] = [hit["_id"] for hit in through["hits"]["hits"]]
    same = sum(orders["library"][query] == orders["pipeline"][query] for query in collection.queries)
    found = {name: mean(per_query(["nDCG@10"], collection.qrels, order)["nDCG@10"]) for name, order in orders.items()}
    return Quality(len(collection.queries), reranked, same, **found)


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
@click.option("--searches", "count", type=click.IntRange(20), default=200, show_default=True)
@click.option("--clients", type=click.IntRange(1), default=8, show_default=True)
def main(folder: Path, config: str | None, route: Any, limit: int | None, count: int, clients: int) -> None:
    """Print quality and load as one line of JSON."""
    settings = load_settings(config)
    plan = PipelinePlan.of(settings, route)
    connection = connect(settings.engine)
    collection = drawn_queries(load_collection(folder, "test"), limit, 0)
    searches = Searches(connection, settings, plan)
    found = quality(searches, collection, Reranker.from_settings(settings))
    under = load(searches, list(collection.queries.values()), count, clients)
    click.echo(json.dumps({"collection": collection.name, "quality": asdict(found), "load": asdict(under)}))


if __name__ == "__main__":
    try:
        main()
    except RhConnectorError as error:
        raise SystemExit(f"Error: {error}") from None
