"""Many clients for minutes: ``python -m tests.campaign.load CORPUS --clients 1 --clients 8 --minutes 10``.

A real ``rh-connector serve`` is asked by clients that wait for each answer, and come again when ``Retry-After`` says
so. Beside them one client searches through its gateway, with a deadline: overload must not touch its searches.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from connector.evaluation.provenance import processor_name, today
from connector.studies.processes.memory import resident, started, until_ready
from tests.campaign.load_plot import plot
from tests.campaign.rows import Row, Tally, kept
from tests.service.gateway.fake_cluster import running_cluster

__all__ = ["Load", "Mix", "Step", "main", "measure", "step_rows"]

_QUERIES = (
    "what causes it and how is it treated",
    "does the treatment reduce mortality",
    "which cells express the receptor",
    "how many patients were there",
)
_NEW = 5
"""New documents of a window that holds some."""
_HITS = 20
_DEADLINE = 2.0
# What the clients of this process, which share the cores, may add to an answer that was sent in time.
_SLACK = 1.0
_PAUSE = 0.5
_SAMPLED = 5.0


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked for.

    Attributes:
        windows: sizes, drawn alike.
        cold: share of requests with new documents.
    """

    windows: tuple[int, ...] = (10, 20, 50)
    cold: float = 0.1

    @property
    def told(self) -> str:
        """For people."""
        sizes = ", ".join(map(str, self.windows))
        new = f"{self.cold:.0%} with {_NEW} new documents" if self.cold else "all documents cached"
        return f"windows of {sizes}; {new}"


@dataclass(frozen=True, slots=True)
class Step:
    """What one number of clients met.

    Attributes:
        clients: that asked at once.
        minutes: how long.
        mix: what they asked for.
        warm: seconds of answers whose documents were cached: p50, p95, p99.
        cold: the same of the others; empty: there were none.
        searches: seconds of searches through the gateway: p50, p99, most.
        a_second: answers.
        refused: requests that were told to come again.
        memory: MB resident, from start to end, a number every few seconds.
    """

    clients: int
    minutes: float
    mix: str
    warm: tuple[float, ...]
    cold: tuple[float, ...]
    searches: tuple[float, ...]
    a_second: float
    refused: int
    memory: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Memory of the last sixth against that of the second: the first is for warming up."""
        sixth = max(1, len(self.memory) // 6)
        return float(np.mean(self.memory[-sixth:]) / np.mean(self.memory[sixth : 2 * sixth] or self.memory))


@dataclass
class Load:
    """What is asked of one service.

    Attributes:
        port: of the service.
        texts: documents that come again and again.
        mix: see ``Mix``.
        seed: of what is drawn.
    """

    port: int
    texts: Sequence[str]
    mix: Mix = field(default_factory=Mix)
    seed: int = 0

    def __post_init__(self) -> None:
        self._orders: dict[tuple[str, int, int], list[int]] = {}
        self._lock = threading.Lock()
        self._number = 0

    def warm_up(self) -> None:
        """Read every text once."""
        with closing(self.connection()) as connection:
            for start in range(0, len(self.texts), 20):
                self._ask(connection, _QUERIES[0], self.texts[start : start + 20])

    def one(self, connection: http.client.HTTPConnection, drawn: random.Random) -> tuple[bool, float, str | None]:
        """One request, asked again for as long as it is refused.

        Returns:
            Whether it held new documents, the seconds of the last try, and what was lost.

        Raises:
            Refused: the service has too much to do.
        """
        query, size = drawn.choice(_QUERIES), drawn.choice(self.mix.windows)
        start, cold = drawn.randrange(len(self.texts)), drawn.random() < self.mix.cold
        documents = [self.texts[(start + at) % len(self.texts)] for at in range(size)]
        if cold:
            documents[:_NEW] = [f"{self._next()}. {text}" for text in documents[:_NEW]]
        begun = time.perf_counter()
        status, body = self._ask(connection, query, documents)
        seconds = time.perf_counter() - begun
        if status != 200:
            return cold, seconds, f"status {status}"
        order = [one["index"] for one in body["results"]]
        if sorted(order) != list(range(size)):
            return cold, seconds, "a hit is lost or doubled"
        if cold:
            return cold, seconds, None
        with self._lock:
            known = self._orders.setdefault((query, size, start), order)
        return cold, seconds, None if known == order else "another order than before"

    def search(self, connection: http.client.HTTPConnection, number: int) -> tuple[float, str | None]:
        """One search through the gateway: its seconds, and what was lost."""
        words = {"query": {"match": {"text": _QUERIES[number % len(_QUERIES)]}}}
        headers = {"content-type": "application/json", "X-Rerank-Deadline-Ms": str(int(_DEADLINE * 1000))}
        begun = time.perf_counter()
        connection.request("POST", f"/books/_search?size={_HITS}", json.dumps(words), headers)
        with connection.getresponse() as answer:
            read = answer.read()
        seconds = time.perf_counter() - begun
        if answer.status != 200:
            return seconds, f"a search failed: {answer.status}"
        if sorted(int(hit["_id"]) for hit in json.loads(read)["hits"]["hits"]) != list(range(_HITS)):
            return seconds, "a search lost hits"
        return seconds, None if seconds < _DEADLINE + _SLACK else f"a search took {seconds:.1f} s"

    def _ask(self, connection: http.client.HTTPConnection, query: str, documents: Sequence[str]) -> tuple[int, Any]:
        body = json.dumps({"query": query, "documents": list(documents)})
        connection.request("POST", "/v1/rerank", body, {"content-type": "application/json"})
        with connection.getresponse() as answer:
            read = answer.read()
        if answer.status in (429, 503):
            raise Refused(answer.headers.get("Retry-After"))
        return answer.status, json.loads(read)

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def connection(self) -> http.client.HTTPConnection:
        """One that stays open between requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


class Refused(Exception):
    """The service has too much to do; the argument is its Retry-After, or None."""


def measure(load: Load, clients: int, seconds: float, pid: int) -> tuple[Step, Tally, Tally]:
    """Ask for so long.

    Args:
        load: what is asked.
        clients: that ask at once.
        seconds: how long.
        pid: of the service, for its memory.

    Returns:
        The figures, and what became of requests and of searches.
    """
    end = time.monotonic() + seconds
    taken: dict[bool, list[float]] = {False: [], True: []}
    searched: list[float] = []
    requests, searches = Tally(), Tally()
    lock, refused = threading.Lock(), [0]

    def guarded(tally: Tally, ask: Callable[[http.client.HTTPConnection], str | None]) -> None:
        connection = load.connection()
        while time.monotonic() < end:
            try:
                lost = ask(connection)
            except Refused as told:
                wait = told.args[0]
                with lock:
                    refused[0] += 1
                    if wait is None:
                        tally.add("refused without Retry-After")
                time.sleep(float(wait or 1))
                continue
            except (OSError, http.client.HTTPException) as error:
                lost = f"{type(error).__name__}: {error}"
                connection.close()
            with lock:
                tally.add(lost)
        connection.close()

    def client(number: int) -> None:
        drawn = random.Random(f"{load.seed}:{clients}:{number}")

        def ask(connection: http.client.HTTPConnection) -> str | None:
            cold, seconds, lost = load.one(connection, drawn)
            with lock:
                taken[cold].append(seconds)
            return lost

        guarded(requests, ask)

    def searcher() -> None:
        def ask(connection: http.client.HTTPConnection) -> str | None:
            seconds, lost = load.search(connection, searches.tried)
            searched.append(seconds)
            time.sleep(_PAUSE)
            return lost

        guarded(searches, ask)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    threads.append(threading.Thread(target=searcher))
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() < end:
        memory.append(resident(pid, "VmRSS"))
        time.sleep(min(_SAMPLED, max(0.0, end - time.monotonic())))
    for thread in threads:
        thread.join()
    step = Step(
        clients,
        seconds / 60,
        load.mix.told,
        _percentiles(taken[False], 50, 95, 99),
        _percentiles(taken[True], 50, 95, 99),
        _percentiles(searched, 50, 99, 100),
        len(taken[False] + taken[True]) / seconds,
        refused[0],
        tuple(memory),
    )
    return step, requests, searches


def step_rows(step: Step, requests: Tally, searches: Tally) -> Iterator[Row]:
    """Two rows of the campaign: requests, and searches through the gateway meanwhile."""
    what = f"{step.clients} client{'s'[: step.clients > 1]}, {step.minutes:g} minutes, {step.mix}"
    warm = " / ".join(f"{one:.2f}" for one in step.warm)
    note = f"cached: p50 / p95 / p99 {warm} s"
    if step.cold:
        note += f"; with new documents {' / '.join(f'{one:.2f}' for one in step.cold)} s"
    note += f"; {step.a_second:.1f} answers a second; {step.refused:,} refused for now"
    yield requests.row("load", what, f"{note}; memory {step.growth - 1:+.1%}, {step.memory[-1]:.0f} MB at the end")
    median, late, most = step.searches
    told = f"deadline {_DEADLINE:g} s; p50 {median:.2f} s, p99 {late:.2f} s, most {most:.2f} s"
    yield searches.row("load", f"searches through the gateway, beside {what}", told)


def _percentiles(seconds: Sequence[float], *shares: int) -> tuple[float, ...]:
    return tuple(round(float(one), 4) for one in np.percentile(seconds, shares)) if seconds else ()


@contextmanager
def served(options: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The service in front of a cluster that is none: its port and process."""
    with running_cluster() as cluster:
        cluster.hits = [
            json.dumps({"_index": "books", "_id": str(at), "_score": 30.0 - at, "_source": {"text": text}})
            for at, text in enumerate(texts[:_HITS])
        ]
        own = ("engine.kind=opensearch", f"engine.url={cluster.url}", "serve.access_log=false")
        settings = [part for one in (*own, *options) for part in ("--set", one)]
        with started(["--json", *settings, "serve", "--port", "0"]) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            until_ready(url, process)
            yield int(url.rpartition(":")[2]), process.pid


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--clients", multiple=True, type=int, default=(1, 8, 32, 128), show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="For each number of clients.")
@click.option("--window", "windows", multiple=True, type=int, default=(10, 20, 50), show_default=True)
@click.option("--cold", default=0.1, show_default=True, help="Share of requests with new documents.")
@click.option("--documents", default=400, show_default=True, help="That come again.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="More settings of the service.")
@click.option("--keep", default=Path("docs/results/campaign.jsonl"), type=click.Path(path_type=Path))
@click.option("--out", default=Path("docs/engineering/load.json"), type=click.Path(path_type=Path))
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="SVG of latency and memory.")
def main(
    corpus: Path,
    clients: tuple[int, ...],
    minutes: float,
    windows: tuple[int, ...],
    cold: float,
    documents: int,
    options: tuple[str, ...],
    keep: Path,
    out: Path,
    picture: Path | None,
) -> None:
    """Load a service step by step; CORPUS: JSON lines with a text each. Exits with 1 where anything was lost."""
    lines = corpus.read_text(encoding="utf-8").splitlines()[:documents]
    texts = [json.loads(line)["text"][:900] for line in lines]
    mix = Mix(windows, cold)
    told = [f"--clients {one}" for one in clients] + [f"--window {one}" for one in windows]
    command = f"python -m tests.campaign.load {corpus.parent.name}/{corpus.name} {' '.join(told)}"
    about = {
        "command": f"{command} --cold {cold:g} --minutes {minutes:g}",
        "machine": f"{processor_name()}, {today()}",
    }
    steps = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    lost = 0
    with served(options, texts) as (port, pid):
        load = Load(port, texts, mix)
        load.warm_up()
        for count in clients:
            step, requests, searches = measure(load, count, minutes * 60, pid)
            for row in kept(step_rows(step, requests, searches), keep, about):
                lost += row.tried - row.survived
                click.echo(f"{row.what}: {row.survived} of {row.tried}; {row.note} {'; '.join(row.lost)}")
            steps = [one for one in steps if (one["clients"], one["mix"]) != (count, step.mix)]
            steps.append(asdict(step) | about)
            out.write_text(json.dumps(steps) + "\n", encoding="utf-8")
    if picture is not None:
        picture.write_text(plot([one for one in steps if one["mix"] == mix.told]), encoding="utf-8")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
