"""Documents that nobody means well with, on every route and behind the gateway: N come back, or a clear 4xx.

The LLM is the real one: its tokenizer and its chat template are what such texts aim at.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from tests.campaign.rows import Row, Tally
from tests.service.gateway.conftest import gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster, running_cluster
from tests.service.live import serving

__all__ = ["hostile_bodies", "hostile_texts", "real_reranker"]

_PART = "hostile input"
_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "<start_of_turn>", "<eos>"]
_CONTROLS = "".join(map(chr, [*range(1, 32), *range(127, 160)]))
_BIDI = "\u202a\u202b\u202d\u202e\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u200b\u2060\ufeff"
_WORDS = re.findall("[a-z]+", "adult cats sleep twelve to sixteen hours a day and bread is made from flour")
_DEEP = 5_000


def real_reranker() -> Reranker:
    """With the settings that an installation has."""
    return Reranker.from_settings(load_settings(os.devnull, {}, environment={}))


def _words(drawn: random.Random) -> str:
    return " ".join(drawn.choices(_WORDS, k=8))


def _among(drawn: random.Random, strange: str, most: int = 12) -> str:
    """Words with strange characters between and inside them."""
    found = list(_words(drawn))
    for _ in range(drawn.randint(1, most)):
        found.insert(drawn.randrange(len(found) + 1), drawn.choice(strange))
    return "".join(found)


def _tokens(drawn: random.Random) -> str:
    role = drawn.choice(["system", "user", "assistant", ""])
    begun = drawn.choice(_TOKENS) * drawn.choice([1, 1, 3, 30])
    return f"{_words(drawn)}{begun}{role}\n{_words(drawn)}{drawn.choice(_TOKENS)}"


_TEXTS: Mapping[str, Callable[[random.Random], str]] = {
    "tokens of chat templates": _tokens,
    "control characters": lambda drawn: _among(drawn, _CONTROLS),
    "NUL": lambda drawn: _among(drawn, "\0", 40),
    "half surrogate pairs": lambda drawn: _among(drawn, "\ud800\udbff\udc00\udfff"),
    "marks of direction and of no width": lambda drawn: _among(drawn, _BIDI, 60),
    "150 accents on a letter": lambda drawn: _words(drawn) + "\u0301\u0336\u20dd" * drawn.randint(10, 50),
    "a line of 1 MB": lambda drawn: drawn.choice(["a", "cats ", "\u4e2d", "<|im_end|>", "="]) * (1_000_000 // 8),
}


def hostile_texts(rounds: int, seed: int = 0) -> Iterator[Row]:
    """A row for each kind of text, on the rerank routes and behind the gateway.

    Args:
        rounds: requests of each.
        seed: of the texts.
    """
    drawn = random.Random(seed)
    with _asked() as (client, cluster):
        for what, make in _TEXTS.items():
            tally = Tally()
            for _ in range(rounds):
                texts = [make(drawn) if drawn.random() < 0.6 else _words(drawn) for _ in range(4)]
                query = make(drawn) if drawn.random() < 0.2 else _words(drawn)
                tally.add(_sent(client, cluster, drawn, texts, query))
            yield tally.row(_PART, f"{what}, in documents and queries", "rerank routes and gateway, in turns")


def hostile_bodies(rounds: int, seed: int = 0) -> Iterator[Row]:
    """A row for each kind of body; see ``hostile_texts``."""
    drawn = random.Random(seed)
    with _asked() as (client, cluster):
        for name, send in _BODIES.items():
            tally = Tally()
            for _ in range(rounds):
                tally.add(send(client, cluster, drawn))
            yield tally.row(_PART, name)


@contextmanager
def _asked() -> Iterator[tuple[httpx2.Client, FakeCluster]]:
    """A service with the real LLM behind a client, and the cluster behind its gateway."""
    with running_cluster() as cluster:
        chosen = gateway_settings(cluster.url, {"serve.max_body_mb": 64})
        with (
            serving(real_reranker(), chosen) as (url, _),
            # On a busy machine a document of 10,000 fields takes its time.
            httpx2.Client(base_url=url, timeout=600, trust_env=False) as client,
        ):
            yield client, cluster


# Route, and how it names query and documents.
_ROUTES = (
    ("/v1/rerank", "query", "documents"),
    ("/v2/rerank", "query", "documents"),
    ("/rerank", "query", "documents"),
    ("/rerank", "query", "texts"),
    ("/score", "text_1", "text_2"),
    ("/v1/rerank_scores", "query", "documents"),
    ("/v1/explain", "query", "documents"),
)


def _sent(
    client: httpx2.Client, cluster: FakeCluster, drawn: random.Random, texts: list[str], query: str
) -> str | None:
    if drawn.random() < 0.3:
        return _through_gateway(client, cluster, [{"text": text} for text in texts], query)
    route, asked, listed = drawn.choice(_ROUTES)
    body = json.dumps({asked: query, listed: texts}, ensure_ascii=True)
    return _checked(client.post(route, content=body, headers={"Content-Type": "application/json"}), len(texts))


def _checked(answer: httpx2.Response, count: int) -> str | None:
    """What is wrong with the answer of a rerank route."""
    if 400 <= answer.status_code < 500:
        told = answer.json()
        message = told.get("message") or told.get("error")
        return None if message and "\n" not in str(message) else f"no clear refusal: {answer.text[:100]}"
    if answer.status_code != 200:
        return f"status {answer.status_code}: {answer.text[:100]}"
    found = answer.json()
    if isinstance(found, dict) and "scores" in found and "results" not in found:
        scores, places = found["scores"], list(range(len(found["scores"])))
    else:
        results = found if isinstance(found, list) else found.get("results", found.get("data"))
        scores = [one.get("relevance_score", one.get("score")) for one in results]
        places = sorted(one["index"] for one in results)
    if places != list(range(count)):
        return f"{len(places)} of {count} documents came back"
    return (
        None
        if all(isinstance(score, float | int) and math.isfinite(score) for score in scores)
        else "a score is none"
    )


def _through_gateway(
    client: httpx2.Client, cluster: FakeCluster, sources: list[dict[str, Any]], query: str
) -> str | None:
    """The cluster's hits, byte by byte, each once."""
    cluster.hits = [
        f'{{"_index":"books","_id":"{at}","_score":{9 - at},"_source":{json.dumps(source)}}}'
        for at, source in enumerate(sources)
    ]
    body = json.dumps({"query": {"match": {"text": query}}, "size": len(sources)})
    answer = client.post("/books/_search", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code != 200:
        return f"gateway: status {answer.status_code}: {answer.text[:100]}"
    ids = [hit["_id"] for hit in answer.json()["hits"]["hits"]]
    if sorted(ids) != [str(at) for at in range(len(sources))]:
        return f"gateway: hits {ids[:10]} of {len(sources)}"
    return None if all(json.dumps(source) in answer.text for source in sources) else "gateway: a document was changed"


def _many_fields(client: httpx2.Client, cluster: FakeCluster, drawn: random.Random) -> str | None:
    fields = {f"field {at}": drawn.choice(_WORDS) for at in range(10_000)}
    if drawn.random() < 0.5:
        return _through_gateway(client, cluster, [fields, {"text": _words(drawn)}], "cats")
    return _checked(client.post("/v1/rerank", json={"query": "cats", "documents": [fields, {"text": "bread"}]}), 2)


def _deep(client: httpx2.Client, cluster: FakeCluster, drawn: random.Random) -> str | None:
    depth = drawn.randint(50, _DEEP)
    begun, ended = drawn.choice([('{"a":', "}"), ("[", "]")])
    nested = begun * depth + '"cats"' + ended * depth
    if drawn.random() < 0.5:
        cluster.hits = [
            f'{{"_index":"books","_id":"{at}","_score":1,"_source":{{"text":{nested}}}}}' for at in range(2)
        ]
        answer = client.post("/books/_search", json={"query": {"match": {"text": "cats"}}})
        whole = answer.status_code == 200 and all(hit in answer.text for hit in cluster.hits)
        return None if whole else f"gateway: status {answer.status_code}: {answer.text[:100]}"
    route, asked, listed = drawn.choice(_ROUTES)
    body = f'{{"{asked}": "cats", "{listed}": ["bread", {nested}]}}'
    return _checked(client.post(route, content=body, headers={"Content-Type": "application/json"}), 2)


def _long_list(client: httpx2.Client, cluster: FakeCluster, drawn: random.Random) -> str | None:
    route, asked, listed = drawn.choice(_ROUTES)
    answer = client.post(route, json={asked: "cats", listed: [drawn.choice(_WORDS)] * 100_000})
    if answer.status_code == 200:
        return "100,000 documents were taken, and serve.max_documents is 1,000"
    return _checked(answer, 100_000)


def _no_json(client: httpx2.Client, cluster: FakeCluster, drawn: random.Random) -> str | None:
    """A body whose bytes were harmed, or values of other kinds in the place of texts."""
    route, asked, listed = drawn.choice(_ROUTES)
    values: list[Any] = [None, 7, -1e308, True, [], {}, [[]], {"text": None}, {"text": 3}, float("nan"), "", "\0"]
    made: dict[str, Any] = {
        asked: "cats",
        listed: ["bread", drawn.choice(values)],
        "top_n": drawn.choice([*values, 2]),
    }
    if drawn.random() < 0.5:
        made.pop("top_n")
    if drawn.random() < 0.2:
        made[asked] = drawn.choice(values)
    body = bytearray(json.dumps(made).encode())
    for _ in range(drawn.choice([0, 0, 1, 3])):
        body[drawn.randrange(len(body))] = drawn.randrange(256)
    answer = client.post(route, content=bytes(body), headers={"Content-Type": "application/json"})
    if answer.status_code == 200:
        # Harmed bytes may have made another list of it: as long as the answer is one.
        answer.json()
        return None
    return _checked(answer, 2)


_BODIES: Mapping[str, Callable[[httpx2.Client, FakeCluster, random.Random], str | None]] = {
    "documents of 10,000 fields": _many_fields,
    f"JSON of 50 to {_DEEP:,} levels": _deep,
    "lists of 100,000 documents": _long_list,
    "bodies that are no JSON or hold no texts": _no_json,
}
