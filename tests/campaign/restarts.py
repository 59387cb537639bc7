"""The kernel kills a service that takes too much memory, and an orchestrator starts it again.

The kill is the kernel's SIGKILL, at any moment, while requests run and the document cache is written; the start is
the same command on the same files. The cgroup's own killer is not asked: which process it takes is its own choice.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread

import httpx2

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.settings import load_settings
from tests.campaign.rows import Row, Tally

__all__ = ["restarts"]

_PART = "out of memory"
_LONGEST_S = 0.5
_DOCUMENTS = 3
_QUERY = "how long do cats sleep"
_START_S = 400.0
_WORDS = re.findall("[a-z]+", "adult cats sleep twelve to sixteen hours a day and bread is made from flour")


def restarts(rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row.

    Args:
        rounds: kills.
        seed: of the moments and the documents.
    """
    drawn = random.Random(seed)
    tally, answered = Tally(), 0
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        # The model is the machine's; what is written is the campaign's.
        shared = load_settings(os.devnull, {}, environment={}).cache.path
        for part in shared.iterdir():
            if part.name not in ("documents", "indexes", "progress"):
                (cache / part.name).symlink_to(part)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RH_")}
        environment |= {"RH_CONFIG": os.devnull, "RH_CACHE__PATH": str(cache), "RH_CACHE__DISK_MB": "500"}
        # Without torch, as it is installed: a start takes seconds.
        environment |= {"RH_SERVE__PORT": "0", "RH_BACKBONE__RUNTIME": "onnx"}
        known: dict[str, float] = {}
        for number in range(rounds):
            lost, count = _killed(environment, known, drawn, number)
            answered += count
            tally.add(lost or _damaged(store_path(cache)))
    note = f"{answered:,} answers before the kills; each start gave the documents before it the same scores"
    yield tally.row(_PART, "a service that serves and caches is killed and started again", note)


def _killed(
    environment: Mapping[str, str], known: dict[str, float], drawn: random.Random, number: int
) -> tuple[str | None, int]:
    """Start a service, ask it what one before it was asked, and kill it under load: what was lost, and answers."""
    command = [sys.executable, "-c", "from connector.cli import main; main()", "serve"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    answers = 0
    assert process.stdout is not None
    reading = Thread(target=process.stdout.read, daemon=True)
    try:
        url = next((word for line in process.stdout for word in line.split() if word.startswith("http://")), None)
        if url is None:
            return "it did not start again", 0
        reading.start()
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            until = time.monotonic() + _START_S
            while client.get("/ready").status_code != 200:
                if process.poll() is not None or time.monotonic() > until:
                    return "it did not become ready again", 0
                time.sleep(0.05)
            if known and (lost := _same(client, known)):
                return lost, 0
            before, done = len(known), Event()
            names = [f"{number} {at}" for at in range(3)]
            loads = [Thread(target=_load, args=(client, name, known, done), daemon=True) for name in names]
            for one in loads:
                one.start()
            wanted, until = drawn.randint(0, 4) * _DOCUMENTS, time.monotonic() + _START_S
            while len(known) - before < wanted and time.monotonic() < until:
                time.sleep(0.01)
            # While the next ones are read, and the last ones are written.
            time.sleep(drawn.uniform(0, _LONGEST_S))
            process.kill()
            done.set()
            for one in loads:
                one.join(60)
            answers = (len(known) - before) // _DOCUMENTS
    finally:
        process.kill()
        process.wait()
        if reading.ident is not None:
            reading.join()
        process.stdout.close()
    return None, answers


def _same(client: httpx2.Client, known: Mapping[str, float]) -> str | None:
    """Whether documents have the scores that were told before the kill."""
    asked = list(known)[-20:]
    answer = client.post("/v1/rerank", json={"query": _QUERY, "documents": asked})
    if answer.status_code != 200 or not answer.json()["reranked"]:
        return f"status {answer.status_code} after the start"
    found = {asked[one["index"]]: one["relevance_score"] for one in answer.json()["results"]}
    return None if found == {text: known[text] for text in asked} else "another score than before the kill"


def _load(client: httpx2.Client, name: str, known: dict[str, float], done: Event) -> None:
    drawn = random.Random(name)
    # The service dies in the middle of one of them.
    with suppress(httpx2.HTTPError):
        while not done.is_set():
            texts = [f"{name}: {' '.join(drawn.choices(_WORDS, k=12))}" for _ in range(_DOCUMENTS)]
            answer = client.post("/v1/rerank", json={"query": _QUERY, "documents": texts})
            if answer.status_code == 200 and answer.json()["reranked"]:
                known.update({texts[one["index"]]: one["relevance_score"] for one in answer.json()["results"]})


def _damaged(path: Path) -> str | None:
    """What is wrong with the document cache after a kill."""
    if not path.exists():
        return None
    with closing(PassageStore(path, 500_000_000)) as store:
        _, damaged = store.verify()
    return f"{damaged} damaged passages in the document cache" if damaged else None
