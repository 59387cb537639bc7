"""What storing encoded documents in fewer bits costs: ``python -m connector.studies.storage_error FOLDER``.

The same windows are read by the static route from documents that are encoded once and stored as float32,
float16, int8 and int4. Scores are compared with float32's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.runtime import DeviceStatistics, EncodedDocument, Needs, Observations, ReadRequest, Runtime
from connector.checkpoints.shape import BackboneShape
from connector.documents import Hit
from connector.errors import RhConnectorError
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.evaluation.measures import mean, per_query
from connector.evaluation.running import drawn_queries
from connector.evaluation.runs import read_run
from connector.heads.fusion import standardize
from connector.reranking.reranker import Reranker
from connector.sections import Layout, Settings
from connector.settings import load_settings

if TYPE_CHECKING:
    from connector.backbone.torch_runtime.encoded import CacheDtype, TorchEncodedDocument

__all__ = ["StorageError", "measure"]

FORMATS: tuple[CacheDtype, ...] = ("float32", "float16", "int8", "int4")
"""Formats that are compared, the exact one first."""
LAYOUTS: tuple[Layout, ...] = ("solo", "late")


class EncodedOnce:
    """A torch runtime that encodes a passage once, and stores it as it is told.

    Args:
        runtime: keeps documents as float32.

    Attributes:
        stored_as: format of the documents that ``encode`` gives.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[bytes, TorchEncodedDocument] = {}
        self.stored_as: CacheDtype = "float32"

    @property
    def shape(self) -> BackboneShape:
        """See ``Runtime``; so all that follows."""
        return self._runtime.shape

    @property
    def device(self) -> str:
        return self._runtime.device

    @property
    def precision(self) -> str:
        return f"{self._runtime.precision}-{self.stored_as}"

    @property
    def threads(self) -> int:
        return self._runtime.threads

    @property
    def readable_layers(self) -> int:
        return self._runtime.readable_layers

    @property
    def requests_together(self) -> int:
        return 1

    @property
    def plan(self) -> Mapping[str, str]:
        return self._runtime.plan

    def encode(
        self, prefix: Sequence[int], documents: Sequence[TokenIds], pool: Needs, *, layout: Layout
    ) -> Iterator[EncodedDocument]:
        from connector.backbone.torch_runtime.encoded import TorchEncodedDocument

        new = [ids for ids in documents if ids.tobytes() not in self._known]
        for ids, document in zip(new, self._runtime.encode(prefix, new, pool, layout=layout), strict=True):
            assert isinstance(document, TorchEncodedDocument)
            self._known[ids.tobytes()] = document
        for wanted in documents:
            yield self._known[wanted.tobytes()].stored_as(self.stored_as)

    def read(self, prefix: Sequence[int], requests: Sequence[ReadRequest], *, layout: Layout) -> list[Observations]:
        return self._runtime.read(prefix, requests, layout=layout)

    def embed(self, tokens: TokenIds, layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        return self._runtime.embed(tokens, layers, start)

    def forget(self) -> None:
        """Let go of all passages: those of one query may fill gigabytes."""
        self._known.clear()

    def device_statistics(self) -> DeviceStatistics | None:
        return self._runtime.device_statistics()

    def lookups(self) -> Mapping[str, Lookups]:
        """See ``Runtime.lookups``."""
        return self._runtime.lookups()

    def load_document(self, data: bytes) -> EncodedDocument:
        return self._runtime.load_document(data)


@dataclass(frozen=True, slots=True)
class StorageError:
    """One storage format.

    Attributes:
        format: one of ``FORMATS``.
        bytes_per_token: of the cached states.
        score_error: mean absolute difference of a document's head score to float32's, in standard deviations of its
            window.
        largest_error: the largest such difference.
        rank_correlation: Spearman's, with float32's order, mean over queries.
        ndcg: nDCG@10 of the heads alone.
        fused: nDCG@10 with the first stage.
    """

    format: str
    bytes_per_token: float
    score_error: float
    largest_error: float
    rank_correlation: float
    ndcg: float
    fused: float


@dataclass
class _Found:
    """What one format gave, query by query."""

    alone: dict[str, list[str]] = field(default_factory=dict)
    fused: dict[str, list[str]] = field(default_factory=dict)
    differences: list[float] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    bytes: int = 0
    tokens: int = 0


def measure(settings: Settings, collection: Collection, windows: dict[str, list[Hit]]) -> list[StorageError]:
    """Compare the formats on the same windows.

    Raises:
        RhConnectorError: see ``Reranker.from_settings`` and ``Reranker.rerank``.
    """
    cache = settings.cache.model_copy(update={"dtype": "float32", "memory_mb": 2000, "disk_mb": 0})
    # One set for every query: a router's pool would be cached, and a few of its heads read.
    static = settings.router.model_copy(update={"mode": "static"})
    torch = settings.backbone.model_copy(update={"runtime": "torch"})
    reranker = Reranker.from_settings(
        settings.model_copy(update={"backbone": torch, "cache": cache, "router": static})
    )
    encoded = EncodedOnce(reranker.reader.runtime)
    reranker = Reranker(reranker.reader.with_runtime(encoded), reranker.routes, fusion=settings.rerank.fusion)
    found = {name: _Found() for name in FORMATS}
    for query, hits in windows.items():
        encoded.forget()
        exact: npt.NDArray[np.float64] | None = None
        for name, own in found.items():
            encoded.stored_as = name
            reranker.reader.clear_cache()
            result = reranker.rerank(collection.queries[query], hits)
            if not result.reranked:
                break
            scores = np.zeros(len(hits))
            for hit in result.hits:
                scores[hit.index] = hit.head_score
            own.fused[query] = [hit.id or "" for hit in result.hits]
            own.alone[query] = [hits[at].id for at in np.argsort(-scores, kind="stable")]
            scores = standardize(scores)
            exact = scores if exact is None else exact
            own.differences += np.abs(scores - exact).tolist()
            own.correlations.append(np.corrcoef(_ranks(scores), _ranks(exact))[0, 1] if len(hits) > 1 else 1.0)
            held = reranker.reader.statistics()
            own.bytes, own.tokens = own.bytes + held.bytes, own.tokens + held.tokens
    return [
        StorageError(
            name,
            own.bytes / max(1, own.tokens),
            float(np.mean(own.differences)),
            max(own.differences),
            float(np.mean(own.correlations)),
            mean(per_query(["nDCG@10"], collection.qrels, own.alone)["nDCG@10"]),
            mean(per_query(["nDCG@10"], collection.qrels, own.fused)["nDCG@10"]),
        )
        for name, own in found.items()
    ]


def _ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.argsort(np.argsort(-scores, kind="stable"))


def table(rows: Iterable[StorageError]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| stored as | bytes a token | score error (sd), mean / largest | rank correlation | nDCG@10 alone | fused |",
        "|---|---|---|---|---|---|",
    ]
    lines.extend(
        f"| {row.format} | {row.bytes_per_token:,.0f} | {row.score_error:.4f} / {row.largest_error:.3f} "
        f"| {row.rank_correlation:.4f} | {row.ndcg:.4f} | {row.fused:.4f} |"
        for row in rows
    )
    return "\n".join(lines)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--limit", default=40, show_default=True, help="Queries.")
@click.option("--split", default="train", show_default=True)
@click.option("--layout", type=click.Choice(LAYOUTS), default="solo", show_default=True)
@click.option("--run", "run_file", help="A TREC run in the folder as first stage; default: engine.kind's search.")
@click.option("--qrels", help="Another file of judgments in the folder.")
def _main(folder: Path, limit: int, split: str, layout: str, run_file: str | None, qrels: str | None) -> None:
    """Print what the formats cost against float32, on a judged collection."""
    settings = load_settings(options={"backbone.layout": layout})
    try:
        collection = drawn_queries(load_collection(folder, split=split, qrels=qrels), limit, 0)
        if run_file is None:
            engine = open_collection_engine(collection, settings)
            windows = first_stage(collection, settings.rerank.window, engine=engine)
        else:
            windows = first_stage(collection, settings.rerank.window, run=read_run(folder / run_file))
        click.echo(table(measure(settings, collection, windows)))
    except RhConnectorError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    _main()
