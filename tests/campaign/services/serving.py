"""The service as a process: started on a cache of its own, asked, kept busy, and looked at after its death."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import httpx2

from connector.backbone.caching.sqlite_store import PassageStore
from connector.settings import load_settings

__all__ = ["START_S", "NotServing", "answers_alike", "damaged", "files_of_its_own", "kept_busy", "serving_process"]

START_S = 400.0
"""Seconds that a start may take: others compute on the machine."""
_COMMAND = (sys.executable, "-c", "from connector.cli import main; main()", "serve")
_QUERY = "how long do cats sleep"
_WORDS = re.findall("[a-z]+", "adult cats sleep twelve to sixteen hours a day and bread is made from flour")
_CLIENTS = 3


class NotServing(Exception):
    """A service that did not come up, in one line."""


def files_of_its_own(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """A cache folder with the machine's models, and the environment of services on it."""
    cache = folder / "cache"
    cache.mkdir()
    # The model is the machine's; what is written is the campaign's.
    shared = load_settings(os.devnull, {}, environment={}).cache.path
    for part in shared.iterdir():
        if part.name not in ("documents", "indexes", "progress"):
            (cache / part.name).symlink_to(part)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RH_")}
    environment |= {"RH_CONFIG": os.devnull, "RH_CACHE__PATH": str(cache), "RH_CACHE__DISK_MB": "500"}
    # Without torch, as it is installed: a start takes seconds.
    return cache, environment | {"RH_SERVE__PORT": "0", "RH_BACKBONE__RUNTIME": "onnx"}


@contextmanager
def serving_process(
    environment: Mapping[str, str], within: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """A service that is ready, and a client of it; it is killed at the end.

    Args:
        environment: of the process.
        within: a command that runs its arguments as another one.

    Raises:
        NotServing: it ended, or was not ready in time.
    """
    command = [*within, *_COMMAND]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    reading = Thread(target=process.stdout.read, daemon=True)
    try:
        url = next((word for line in process.stdout for word in line.split() if word.startswith("http://")), None)
        if url is None:
            raise NotServing("it did not start again")
        reading.start()
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            until = time.monotonic() + START_S
            while not _is_ready(client):
                if process.poll() is not None or time.monotonic() > until:
                    raise NotServing("it did not become ready again")
                time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()
        if reading.ident is not None:
            reading.join()
        process.stdout.close()


def _is_ready(client: httpx2.Client) -> bool:
    with suppress(httpx2.HTTPError):
        return client.get("/ready").status_code == 200
    return False


def answers_alike(client: httpx2.Client, known: Mapping[str, float]) -> str | None:
    """Whether documents have the scores that were told before the kill."""
    asked = list(known)[-20:]
    if not asked:
        return None
    answer = client.post("/v1/rerank", json={"query": _QUERY, "documents": asked})
    if answer.status_code != 200 or not answer.json()["reranked"]:
        return f"status {answer.status_code} after the start"
    found = {asked[one["index"]]: one["relevance_score"] for one in answer.json()["results"]}
    return None if found == {text: known[text] for text in asked} else "another score than before the kill"


@contextmanager
def kept_busy(
    client: httpx2.Client, known: dict[str, float], name: str, documents: int, words: int = 12
) -> Iterator[None]:
    """Clients that ask with new documents, one request after the other; scores that were told are put into ``known``.

    Args:
        client: of the service.
        known: score of each text that was answered.
        name: of the texts: the same one makes the same.
        documents: of a request.
        words: of a document.
    """
    done = Event()

    def ask(own: str) -> None:
        drawn = random.Random(own)
        # The service dies in the middle of one of them.
        with suppress(httpx2.HTTPError):
            while not done.is_set():
                texts = [f"{own}: {' '.join(drawn.choices(_WORDS, k=words))}" for _ in range(documents)]
                answer = client.post("/v1/rerank", json={"query": _QUERY, "documents": texts})
                if answer.status_code == 200 and answer.json()["reranked"]:
                    known.update({texts[one["index"]]: one["relevance_score"] for one in answer.json()["results"]})

    clients = [Thread(target=ask, args=(f"{name} {at}",), daemon=True) for at in range(_CLIENTS)]
    for one in clients:
        one.start()
    try:
        yield
    finally:
        done.set()
        for one in clients:
            one.join(60)


def damaged(path: Path) -> str | None:
    """What is wrong with the document cache after a kill."""
    if not path.exists():
        return None
    with closing(PassageStore(path, 500_000_000)) as store:
        _, count = store.verify()
    return f"{count} damaged passages in the document cache" if count else None
