"""A real Ray cluster of two nodes: the files of one machine, whoever dies meanwhile."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner
from filelock import FileLock

from connector.backbone.caching.sqlite_store import store_path
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import cli, progress
from connector.cli.commands import rerank
from connector.errors import BackboneError, DataError, SettingsError
from connector.offline.ray_cluster import ray_workers
from connector.offline.workers import LoadedLlm
from connector.sections import Settings
from connector.training import train_router, train_signals
from tests.cli.commands.test_train_router import TRAIN, collection

__all__ = ["collection"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="a cluster of several nodes needs POSIX"),
    # Ray's own processes and sockets.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, three CPUs: two workers, and one CPU that stays free."""
    utils = pytest.importorskip("ray.cluster_utils")
    # An actor that dies is replaced from among processes that import this.
    where = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (where, os.environ.get("PYTHONPATH"))))
    # Ray ends workers where the machine's memory is nearly full, whoever fills it; and nobody looks at its pages.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 (Ray spells it so)
    # One cluster at a time on a machine: processes that share the tests would each start one.
    with FileLock(Path(tempfile.gettempdir()) / "rh-connector-ray-tests.lock"):
        head = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
        own = utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            own.add_node(num_cpus=1, object_store_memory=100_000_000)
            yield own
        finally:
            own.shutdown()


@pytest.fixture
def caches(smollm2: Checkpoint, tmp_path: Path) -> Iterator[Path]:
    """Cache folders of their own, with the real model in them."""

    def made() -> Iterator[Path]:
        number = 0
        while True:
            folder = tmp_path / f"cache{number}"
            (folder / "models").mkdir(parents=True)
            (folder / "models" / "smollm2-135m").symlink_to(smollm2.path)
            yield folder
            number += 1

    return made()


def run(cache: Path, *arguments: str) -> Any:
    given = ["--json", "--set", f"cache.path={cache}", "--set", "backbone.dtype=float32", *arguments]
    result = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def contents(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}
    assert found
    return found


@pytest.fixture
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers tell when they were made."""
    now = datetime.datetime.now(datetime.UTC)
    frozen = SimpleNamespace(datetime=SimpleNamespace(now=lambda zone: now), UTC=datetime.UTC)
    for module in (train_router, train_signals):
        monkeypatch.setattr(module, "datetime", frozen)


def workers() -> list[int]:
    """Processes of actors that this process started through Ray's own."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or b"_Actor" not in (folder / "cmdline").read_bytes():
                continue
            above = int(folder.name)
            while above > 1 and above != os.getpid():
                above = int((Path("/proc") / str(above) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if above == os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """When the first result is there, one of the workers is killed; its process is noted."""
    killed: list[int] = []
    plain = progress.progress

    def tracked(console: Any, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        for item in plain(console, label, items, total):
            if not killed:
                killed.extend(workers()[:1])
                os.kill(killed[0], signal.SIGKILL)
            yield item

    monkeypatch.setattr(progress, "progress", tracked)
    monkeypatch.setattr(rerank, "progress", tracked)
    return killed


@pytest.mark.usefixtures("one_moment")
@pytest.mark.parametrize("layout", ["late", "solo"])
def test_training_makes_the_same_files_although_a_worker_is_killed(
    cluster: Any, caches: Iterator[Path], collection: Path, killing: list[int], layout: str, tmp_path: Path
) -> None:
    own = [f"{collection}:train", *(TRAIN if layout == "late" else ("--window", "5"))]
    own += ["--set", f"backbone.layout={layout}", "--out"]
    one, other = next(caches), next(caches)
    run(other, "train", *own, str(tmp_path / "there" / "router.onnx"), "--ray", cluster.address)
    assert len(killing) == 1
    run(one, "train", *own, str(tmp_path / "here" / "router.onnx"))
    assert contents(other / "statistics") == contents(one / "statistics")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def write_run(collection: Path, path: Path, queries: int = 10) -> tuple[str, ...]:
    lines = [
        f"q{at} Q0 d{(at + place) % 10} {place + 1} {10 - place} bm25" for at in range(queries) for place in range(5)
    ]
    path.write_text("\n".join(lines) + "\n")
    texts = str(collection / "queries_train.jsonl")
    return ("rerank", "--run", str(path), "--collection", str(collection), "--queries", texts, "--window", "4")


def test_a_run_is_reranked_the_same_although_a_worker_is_killed(
    cluster: Any, caches: Iterator[Path], collection: Path, killing: list[int], tmp_path: Path
) -> None:
    own, cache = write_run(collection, tmp_path / "bm25.trec"), next(caches)
    there, here = tmp_path / "there.trec", tmp_path / "here.trec"
    run(cache, *own, "--out", str(there), "--ray", cluster.address)
    assert len(killing) == 1
    run(cache, *own, "--out", str(here))
    assert there.read_bytes() == here.read_bytes()


def test_what_a_killed_driver_left_is_continued(
    cluster: Any, caches: Iterator[Path], collection: Path, tmp_path: Path
) -> None:
    own, cache = write_run(collection, tmp_path / "bm25.trec"), next(caches)
    there, here = tmp_path / "there.trec", tmp_path / "here.trec"
    options = ["--set", f"cache.path={cache}", "--set", "backbone.dtype=float32", "--ray", cluster.address]
    code = "from connector.cli import main; main()"
    driver = subprocess.Popen([sys.executable, "-c", code, *own, "--out", str(there), *options])
    while driver.poll() is None and (not there.exists() or not there.stat().st_size):
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    before = there.read_bytes()
    (answer,) = run(cache, *own, "--out", str(there), "--ray", cluster.address)
    assert answer["queries"] == 10 and answer["kept"] == before.count(b"\n") // 5 > 0
    run(cache, *own, "--out", str(here))
    assert there.read_bytes() == here.read_bytes()


def test_documents_are_encoded_the_same_although_a_worker_is_killed(
    cluster: Any, caches: Iterator[Path], tmp_path: Path
) -> None:
    documents = tmp_path / "documents.jsonl"
    lines = [{"_id": str(at), "text": f"Animal {at} sleeps {at % 20} hours. " * (at % 7 + 1)} for at in range(40)]
    documents.write_text("\n".join(map(json.dumps, lines)))

    def rows(cache: Path, *more: str) -> tuple[Any, list[Any]]:
        engine = ("--set", f"engine.url={cache / 'indexes'}", "--set", "cache.disk_mb=500")
        (answer,) = run(cache, *engine, "index", str(documents), "--precompute", *more)
        with sqlite3.connect(store_path(cache)) as db:
            found = db.execute("SELECT key, tokens, bytes, checksum, data FROM passages JOIN states USING (number)")
            return answer["precomputed"], found.fetchall()

    there, here = next(caches), next(caches)
    told, first = rows(there, "--ray", cluster.address)
    assert (told["documents"], told["present"], told["encoded"]) == (40, 0, 40)
    assert told["file_bytes"] > 1_000_000
    assert first == rows(here)[1]
    # A second time nothing is encoded, and no worker is needed.
    told, again = rows(there, "--ray", cluster.address)
    assert (told["present"], told["encoded"]) == (40, 0) and again == first


def test_many_collections_are_evaluated_the_same(
    cluster: Any, caches: Iterator[Path], collection: Path, tmp_path: Path
) -> None:
    other = tmp_path / "others"
    other.mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        (other / name).write_bytes((collection / name).read_bytes())
    own = ["evaluate", str(collection), str(other), "--window", "5", "--timed", "0"]
    made = []
    for more in (("--ray", cluster.address), ()):
        place = tmp_path / f"out{len(made)}"
        places = ["--runs", str(place / "runs"), "--per-query", str(place / "measures"), "--out", str(place / "out")]
        cache = next(caches)
        answers = run(cache, *own, *places, *more)
        assert [answer["collection"] for answer in answers] == ["animals", "others"]
        assert {path.name for path in (place / "out").iterdir()} == {"animals.json", "others.json"}
        made.append((contents(place / "runs"), contents(place / "measures"), contents(cache / "statistics")))
    assert made[0] == made[1]


def _kill(llm: LoadedLlm, item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def _refuse(llm: LoadedLlm, item: int) -> int:
    raise DataError(f"item {item} is wrong")


def _squared(llm: LoadedLlm, item: int) -> int:
    return item * item


def _where(llm: LoadedLlm, item: int) -> tuple[int, str]:
    import ray

    time.sleep(0.02)
    return item, ray.get_runtime_context().get_node_id()


def own_settings(settings: Settings, cache: Path) -> Settings:
    return settings.model_copy(update={"cache": settings.cache.model_copy(update={"path": cache})})


def test_results_come_in_order_and_items_are_taken_as_there_is_room(
    cluster: Any, settings: Settings, caches: Iterator[Path]
) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(500):
            taken.append(number)
            yield number

    with ray_workers(own_settings(settings, next(caches)), cluster.address) as own:
        results = own.map(_squared, items())
        assert next(results) == 0 and len(taken) <= 17
        assert list(results) == [number * number for number in range(1, 500)]
        with pytest.raises(DataError, match="a Ray worker on .*: item 3 is wrong"):
            list(own.map(_refuse, [3]))
        # Who was refused once goes on.
        assert list(own.map(_squared, [5])) == [25]
        with pytest.raises(BackboneError, match="4 Ray workers ended with the same work"):
            list(own.map(_kill, [1]))


def test_a_node_that_leaves_takes_no_result_with_it(cluster: Any, settings: Settings, caches: Iterator[Path]) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    with ray_workers(own_settings(settings, next(caches)), cluster.address, 3) as own:
        results = own.map(_where, range(400))
        found = [next(results)]
        # The head has room for two of the three.
        others = {node.node_id: node for node in cluster.worker_nodes}
        while not others.keys() & {place for _, place in found}:
            found.append(next(results))
        gone = next(place for _, place in found if place in others)
        cluster.remove_node(others[gone])
        found += results
    assert [number for number, _ in found] == list(range(400))
    assert gone not in {place for _, place in found[-20:]}


def test_more_workers_than_there_are_cpus_are_refused(cluster: Any, settings: Settings) -> None:
    with (
        pytest.raises(SettingsError, match="3 of 3 CPUs are free; 3 workers want 4 CPUs, for one stays free; add"),
        ray_workers(settings, cluster.address, 3),
    ):
        pass


def test_another_llm_is_refused(cluster: Any, caches: Iterator[Path], settings: Settings, reranker: Any) -> None:
    other = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"layout": "late"})})
    with (
        ray_workers(own_settings(other, next(caches)), cluster.address) as own,
        pytest.raises(BackboneError, match="gives other numbers .* than elsewhere .*; set backbone.model"),
    ):
        list(own.map(_squared, [1], reranker.reader))


def test_a_whole_index_is_ranked_the_same_and_continued(
    cluster: Any, caches: Iterator[Path], collection: Path, killing: list[int], tmp_path: Path
) -> None:
    cache = next(caches)
    engine = ("--set", f"engine.url={tmp_path / 'indexes'}")
    run(cache, *engine, "index", str(collection))
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q1", "text": "how long do cats rest"}\n{"_id": "q2", "text": "an owl at night"}\n')
    own = (*engine, "rerank", "--whole-index", "--queries", str(queries), "--window", "3")
    there, here = tmp_path / "there.trec", tmp_path / "here.trec"
    (answer,) = run(cache, *own, "--out", str(there), "--ray", cluster.address)
    assert answer["documents"] == 10 and len(killing) == 1
    (first, *_) = there.read_text().split("\n")
    assert first.split()[:4] == ["q1", "Q0", "d0", "1"] and there.read_text().count("\n") == 6
    run(cache, *own, "--out", str(here))
    assert there.read_bytes() == here.read_bytes() and not (tmp_path / "here.trec.part").exists()
