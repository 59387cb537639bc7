"""How often a fleet encodes a document: ``python -m connector.studies.processes.fleet CORPUS``.

Three services are asked in turn over the same documents. Once each has a cache of its own, as on three machines. Once
all have one folder, as replicas on one machine may (``cache.disk_mb``). Once each is as on a machine of its own, and
reads the file that a precomputing machine made (``cache.shared``).
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from connector.evaluation.provenance import processor_name, today
from connector.settings import load_settings
from connector.studies.processes.memory import numbered_texts, started, until_ready

__all__ = ["FleetRow", "main", "measure"]

_WINDOW = 20
_QUERIES = ("what causes it", "how is it treated", "who is at risk", "does it spread", "which dose was given")
_ENCODED = re.compile(r"^rh_passages_encoded_total (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One way to run a fleet.

    Attributes:
        way: what the replicas share.
        requests: all replicas' together.
        documents: different ones.
        encoded: passages that replicas had to encode, together.
        seconds: a request, in the mean, all replicas on this machine.
    """

    way: str
    requests: int
    documents: int
    encoded: int
    seconds: float


def measure(texts: Sequence[str], options: Sequence[str], folder: Path, replicas: int = 3) -> list[FleetRow]:
    """One row for each way.

    Args:
        texts: documents, each of one passage.
        options: of ``rh-connector``, for all processes.
        folder: empty; caches are made there.
        replicas: processes that serve.
    """
    apart = [folder / f"apart-{number}" for number in range(replicas)]
    rows = [_fleet("nothing", texts, options, [[_apart(path)] for path in apart])]
    one = folder / "one"
    rows.append(
        _fleet("one folder, on one machine", texts, options, [[_apart(one), "cache.disk_mb=100000"]] * replicas)
    )
    made = folder / "volume" / "passages.sqlite3"
    _export(one, options, made)
    fresh = [folder / f"fresh-{number}" for number in range(replicas)]
    rows.append(
        _fleet("a precomputed file", texts, options, [[_apart(path), f"cache.shared={made}"] for path in fresh])
    )
    return rows


def _fleet(way: str, texts: Sequence[str], options: Sequence[str], own: Sequence[Sequence[str]]) -> FleetRow:
    windows = [texts[start : start + _WINDOW] for start in range(0, len(texts), _WINDOW)]
    asked = [(query, window) for query in _QUERIES for window in windows]
    # Dealt out in order, a window might always come to the same replica.
    random.Random(0).shuffle(asked)
    with ExitStack() as stack:
        urls = []
        for settings in own:
            arguments = ["--json", *options, *_settings(settings), "serve", "--port", "0"]
            process = stack.enter_context(started(arguments))
            assert process.stdout is not None
            urls.append(json.loads(process.stdout.readline())["url"])
            until_ready(urls[-1], process)
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(urls)) as pool:
            # A balancer deals requests out in turn; all replicas work at once.
            list(pool.map(_ask_each, urls, [asked[at :: len(urls)] for at in range(len(urls))]))
        seconds = (time.perf_counter() - begun) / len(asked)
        encoded = sum(_encoded(url) for url in urls)
    return FleetRow(way, len(asked), len(texts), encoded, seconds)


def _settings(assignments: Sequence[str]) -> list[str]:
    return [part for one in assignments for part in ("--set", one)]


def _apart(folder: Path) -> str:
    """The setting of a cache folder of its own, whose weights are those of the usual one: they are made once."""
    usual = load_settings(environment={}).cache.path
    folder.mkdir(parents=True, exist_ok=True)
    if (usual / "models").is_dir() and not (folder / "models").exists():
        (folder / "models").symlink_to(usual / "models")
    return f"cache.path={folder}"


def _export(folder: Path, options: Sequence[str], made: Path) -> None:
    with started([*options, *_settings([_apart(folder)]), "cache", "export", str(made)]) as process:
        if process.wait():
            raise click.ClickException("cache export failed; run it alone to see why")


def _ask_each(url: str, asked: Sequence[tuple[str, Sequence[str]]]) -> None:
    for query, documents in asked:
        body = json.dumps({"query": query, "documents": list(documents)}).encode()
        request = urllib.request.Request(f"{url}/v1/rerank", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            answer.read()


def _encoded(url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = _ENCODED.search(answer.read().decode())
    assert found is not None
    return round(float(found[1]))


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--documents", default=200, show_default=True, help="How many are asked for.")
@click.option("--replicas", default=3, show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings.")
def main(corpus: Path, documents: int, replicas: int, assignments: tuple[str, ...]) -> None:
    """Print a table of how many passages a fleet encodes.

    CORPUS: a file of JSON lines with a text each, as of a BEIR folder.
    """
    options = _settings(assignments)
    print(f"{processor_name()}, {today()}; {replicas} replicas, {documents} documents of {corpus.parent.name}\n")
    print("| replicas share | requests | documents | encoded | a document | s a request |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(numbered_texts(corpus, documents, 1000), options, Path(folder), replicas):
            each = row.encoded / row.documents
            print(
                f"| {row.way} | {row.requests} | {row.documents} | {row.encoded} | {each:.2f} | {row.seconds:.2f} |"
            )


if __name__ == "__main__":
    main()
