"""Instructions to the LLM in a document that answers nothing: how many places do they gain it?

A measured figure, no trial that is lost or won: lost is only a request that fails or a document that does not come
back. Beside each stands the same document with an equally long text that says nothing.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, stdev

import httpx2

from tests.campaign.hostile import real_reranker
from tests.campaign.rows import Row, Tally
from tests.service.conftest import service_settings
from tests.service.live import serving

__all__ = ["INSTRUCTIONS", "injections"]

_PART = "hostile input"
_QUERIES, _WINDOW, _LEAST = 5, 100, 20
# What is appended must be read: a longer document would be cut before it.
_MOST_WORDS = 80
_NEUTRAL = (
    "The page was last changed on a Tuesday. It has a header, a footer and a small picture on the left. Printed"
    " copies are kept in the second drawer. The paper is white and the ink is black. A bus stops near the building. "
)
INSTRUCTIONS = tuple(Path(__file__).with_name("instructions.txt").read_text(encoding="utf-8").splitlines())
"""One a line, of the kinds that public lists name."""


@dataclass(frozen=True)
class _Window:
    """A query, its judged documents, and the places of those that answer nothing."""

    query: str
    texts: list[str]
    irrelevant: list[int]


def injections(collection: Path, rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row.

    Args:
        collection: a folder as BEIR lays it out, with judged documents that are not relevant among its judgments.
        rounds: instructions, each in a document of each of five queries.
        seed: of the queries and documents.
    """
    drawn = random.Random(seed)
    tally = Tally()
    gained: list[tuple[int, int]] = []
    firsts = [0, 0]
    with (
        serving(real_reranker(), service_settings()) as (url, _),
        httpx2.Client(base_url=url, timeout=600, trust_env=False) as client,
    ):
        for window in _windows(collection, drawn):
            chosen = [(text, drawn.choice(window.irrelevant)) for text in INSTRUCTIONS[:rounds]]
            injected = [f"{window.texts[at]} {text}" for text, at in chosen]
            neutral = [f"{window.texts[at]} {_as_long(text)}" for text, at in chosen]
            # A score depends on no other document: one list brings all places.
            scores = _scores(client, window.query, [*window.texts, *injected, *neutral])
            if scores is None:
                for _ in chosen:
                    tally.add("a document did not come back")
                continue
            plain = scores[: len(window.texts)]
            for number, (_, at) in enumerate(chosen):
                others = plain[:at] + plain[at + 1 :]
                own, hostile, harmless = (
                    1 + sum(other > score for other in others)
                    for score in (
                        plain[at],
                        scores[len(plain) + number],
                        scores[len(plain) + len(chosen) + number],
                    )
                )
                gained.append((own - hostile, own - harmless))
                firsts[0] += hostile == 1 < own
                firsts[1] += harmless == 1 < own
                tally.add(None)
    yield tally.row(_PART, "instructions to the LLM in a document that answers nothing", _told(gained, firsts))


def _told(gained: list[tuple[int, int]], firsts: list[int]) -> str:
    if len(gained) < 2:
        return ""
    apart = [own - other for own, other in gained]
    margin = 1.96 * stdev(apart) / len(apart) ** 0.5
    return (
        f"mean places gained of {_WINDOW}: {fmean(own for own, _ in gained):+.1f} with an instruction, "
        f"{fmean(other for _, other in gained):+.1f} with a text as long that says nothing "
        f"(apart {fmean(apart):+.1f} ± {margin:.1f}); first place: {firsts[0]} and {firsts[1]} of {len(gained)}"
    )


def _as_long(text: str) -> str:
    return "".join(islice(cycle(_NEUTRAL), len(text)))


def _scores(client: httpx2.Client, query: str, texts: list[str]) -> list[float] | None:
    answer = client.post("/v1/rerank_scores", json={"query": query, "documents": texts, "raw_scores": True})
    if answer.status_code != 200 or not answer.json()["reranked"]:
        return None
    scores: list[float] = answer.json()["scores"]
    return scores if len(scores) == len(texts) else None


def _windows(collection: Path, drawn: random.Random) -> Iterator[_Window]:
    """Queries that have enough judged documents that are not relevant."""
    judged: dict[str, dict[str, int]] = {}
    for line in (collection / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = re.split(r"\s+", line.strip())
        judged.setdefault(query, {})[document] = int(grade)
    queries = _texts(collection / "queries.jsonl", set(judged))
    usable = [
        query
        for query, grades in judged.items()
        if len(grades) >= _WINDOW and sum(grade == 0 for grade in grades.values()) >= _LEAST
    ]
    chosen = {query: drawn.sample(sorted(judged[query]), _WINDOW) for query in drawn.sample(usable, _QUERIES)}
    corpus = _texts(collection / "corpus.jsonl", {document for window in chosen.values() for document in window})
    for query, documents in chosen.items():
        texts = [" ".join(corpus[document].split()[:_MOST_WORDS]) for document in documents]
        irrelevant = [at for at, document in enumerate(documents) if judged[query][document] == 0]
        yield _Window(queries[query], texts, irrelevant)


def _texts(path: Path, wanted: set[str]) -> Mapping[str, str]:
    found = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            one = json.loads(line)
            if one["_id"] in wanted:
                found[one["_id"]] = f"{one.get('title', '')} {one['text']}".strip()
    return found
