"""Workers on a Ray cluster: one actor each, which holds the LLM. The only module that imports ray.

An actor that dies is replaced, wherever there is room, and its items go to the others. Ray's own retries would keep
them for the dead one until it has a place again, which may be never.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import connector.errors
from connector import __version__
from connector.errors import BackboneError, MissingExtraError, RhConnectorError, SettingsError
from connector.offline.workers import LoadedLlm, Work, Workers, told_of, worker_settings
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.backbone.reader import Reader

__all__ = ["AUTO", "ray_workers"]

AUTO = "auto"
Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds in which a cluster's port answers, and in which at least one worker must come up (it may fetch the LLM).
_ANSWERS_S, _COMES_UP_S = 5.0, 900.0
# Seconds in which CPUs that are taken may become free.
_FREED_S = 20.0
# Items that one worker has at once: the one it works on, and the next. And those taken ahead of the slowest.
_ROOM, _AHEAD = 2, 8
# Workers that one item, or loading the LLM, may end.
_DEATHS = 4


@contextmanager
def ray_workers(settings: Settings, address: str, count: int | None = None) -> Iterator[Workers]:
    """Workers on the Ray cluster at an address, for as long as the context lasts; they start at the first work.

    Args:
        settings: of the LLM, the cache, the router and reranking; nothing else travels.
        address: ``host:port`` of a cluster that this machine is a node of; or ``auto``: the one that runs here
            or that RAY_ADDRESS names, else one of this machine alone.
        count: workers; they share the free CPUs, but for one. None: one for each of these CPUs, or for each free GPU.

    Raises:
        MissingExtraError: ray is not installed.
        SettingsError: no cluster answers there, or it has too few free CPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What its own warning says will be the default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "ray") from None
    _connect(ray, address)
    # Ray prints on standard output who died, among what the command prints there; it has no setting against it.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield _RayWorkers(settings, _share(ray, settings, address, count))
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address == AUTO:
        try:
            ray.init(address=AUTO, **quiet)
        except ConnectionError:
            # One more than there are, for the one that stays free: this process hardly computes meanwhile.
            ray.init(num_cpus=(os.cpu_count() or 1) + 1, include_dashboard=False, **quiet)
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise SettingsError(f"--ray {address}: give auto, or HOST:PORT of the cluster's head, as in 10.0.0.7:6379")
    try:
        # Ray itself asks for minutes, and may then end the process.
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_S):
            pass
        ray.init(address=address, **quiet)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingsError(
            f"--ray {address}: no Ray cluster answers there ({reason}); start one with: ray start --head, and on "
            f"this machine: ray start --address {address}"
        ) from None


@dataclass(frozen=True, slots=True)
class _Share:
    """So many workers, with so many CPUs and GPUs each."""

    workers: int
    cpus: int
    gpus: int


def _share(ray: Any, settings: Settings, address: str, count: int | None) -> _Share:
    device, until = settings.backbone.device, time.monotonic() + _FREED_S
    while True:
        free, total = ray.available_resources(), ray.cluster_resources()
        cpus, gpus = int(free.get("CPU", 0)), int(free.get("GPU", 0))
        with_gpu = device == "cuda" or (device == "auto" and total.get("GPU", 0) > 0)
        # One stays free: a full cluster has no place for what Ray itself starts, and waits for ever.
        most = min(cpus - 1, gpus) if with_gpu else cpus - 1
        if most >= (count or 1) or time.monotonic() > until or total.get("CPU", 0) < 2:
            break
        # Those of a command that was killed are given back after some seconds.
        time.sleep(0.5)
    seen = f"{cpus} of {int(total.get('CPU', 0))} CPUs are free"
    seen += f", and {gpus} of {int(total.get('GPU', 0))} GPUs" if with_gpu else ""
    if most < (count or 1):
        raise SettingsError(
            f"--ray {address}: {seen}; {count or 1} workers want {(count or 1) + 1} CPUs, for one stays free"
            f"{', and a GPU each' if with_gpu else ''}; add nodes, or wait until others are done"
        )
    workers = count or most
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    each = 1 if count is None and not with_gpu else max(1, min((cpus - 1) // workers, largest))
    return _Share(workers, each, int(with_gpu))


class _Failure:
    """An error that a user can mend, as it travels: by its class and its words."""

    def __init__(self, error: RhConnectorError) -> None:
        named = {name for name in connector.errors.__all__ if name != "MissingExtraError"}
        self._kind = next(kind for kind in type(error).__mro__ if kind.__name__ in named).__name__
        self._told = f"a Ray worker on {socket.gethostname()}: {error}"

    def error(self) -> RhConnectorError:
        kind: type[RhConnectorError] = getattr(connector.errors, self._kind)
        return kind(self._told)


class _Actor:
    """Runs in the worker's process."""

    def __init__(self, settings: Settings, files: Mapping[Path, bytes]) -> None:
        self._llm = LoadedLlm(settings, files)

    def start(self) -> tuple[str, str] | _Failure:
        """Loads the LLM; tells the version of rh-connector, and what the LLM's numbers depend on."""
        try:
            return __version__, told_of(self._llm.reader)
        except RhConnectorError as error:
            return _Failure(error)

    def do(self, work: Work[Any, Any], item: Any) -> Any:
        try:
            return work(self._llm, item)
        except RhConnectorError as error:
            return _Failure(error)


@dataclass(slots=True)
class _Item:
    """One item under way, and how many workers died with it."""

    number: int
    value: Any
    deaths: int = 0


@dataclass(eq=False, slots=True)
class _Worker:
    """An actor's handle, and its items by Ray's reference to their results."""

    handle: Any
    items: dict[Any, _Item] = field(default_factory=dict)


class _RayWorkers:
    """See ``Workers``. Workers that are up serve one ``map`` after the other."""

    def __init__(self, settings: Settings, share: _Share) -> None:
        import ray

        self._ray: Any = ray
        self._share = share
        self._given = ray.put(worker_settings(settings))
        self._ready: list[_Worker] = []
        self._starting: dict[Any, _Worker] = {}
        self._told: str | None = None
        self._failed_starts = 0

    def map(self, work: Work[Item, Result], items: Iterable[Item], reader: Reader | None = None) -> Iterator[Result]:
        """See ``Workers``."""
        if reader is not None:
            self._expect(told_of(reader))
        source = (_Item(number, value) for number, value in enumerate(items))
        first = next(source, None)
        if first is None:
            return
        again, taken, given = [first], 1, 0
        done: dict[int, Any] = {}
        there = self._ray.put(work)
        try:
            while True:
                while given in done:
                    yield done.pop(given)
                    given += 1
                worker = min(self._ready, key=lambda each: len(each.items), default=None)
                item = None
                if worker is not None and len(worker.items) < _ROOM:
                    if again:
                        item = again.pop(0)
                    elif taken - given < _AHEAD * self._share.workers:
                        item = next(source, None)
                        taken += item is not None
                    if item is not None:
                        worker.items[worker.handle.do.remote(there, item.value)] = item
                        continue
                if not again and not any(each.items for each in self._ready):
                    return
                self._wait(done, again)
        finally:
            # Of work that was given up, nobody takes the results.
            for each in self._ready:
                each.items.clear()

    def _begin_workers(self) -> None:
        while len(self._ready) + len(self._starting) < self._share.workers:
            actor = self._ray.remote(_Actor).options(
                num_cpus=self._share.cpus,
                num_gpus=self._share.gpus,
                scheduling_strategy="SPREAD",
                max_restarts=0,
            )
            handle = actor.remote(*self._ray.get(self._given))
            self._starting[handle.start.remote()] = _Worker(handle)

    def _wait(self, done: dict[int, Any], again: list[_Item]) -> None:
        """Until something is done, a worker came up, or one died."""
        self._begin_workers()
        busy = {reference: worker for worker in self._ready for reference in worker.items}
        waiting = [*busy, *self._starting]
        found, _ = self._ray.wait(waiting, num_returns=1, timeout=None if busy else _COMES_UP_S)
        if not found:
            raise BackboneError(
                f"no Ray worker came up in {_COMES_UP_S / 60:.0f} minutes; it takes {self._share.cpus} CPUs and "
                f"{self._share.gpus} GPUs of one node (ray status says what is free)"
            )
        for reference in found:
            if reference in self._starting:
                self._came_up(reference)
            else:
                self._was_done(busy[reference], reference, done, again)

    def _came_up(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            told = self._ray.get(reference)
        except self._deaths() as error:
            self._failed_starts += 1
            if self._failed_starts >= _DEATHS:
                raise BackboneError(
                    f"{_DEATHS} Ray workers ended while they loaded the LLM ({_first_line(error)}); has each node "
                    "rh-connector, and memory for a worker a CPU? --ray-workers takes fewer"
                ) from None
            return
        if isinstance(told, _Failure):
            raise told.error()
        version, llm = told
        if version != __version__:
            raise BackboneError(f"a Ray worker has rh-connector {version}, and this is {__version__}; install one")
        self._expect(llm)
        self._failed_starts = 0
        self._ready.append(worker)

    def _expect(self, told: str) -> None:
        self._told = self._told or told
        if self._told != told:
            raise BackboneError(
                f"the LLM on a Ray worker gives other numbers ({told}) than elsewhere ({self._told}); set "
                "backbone.model, backbone.runtime and backbone.dtype to what all nodes have"
            )

    def _was_done(self, worker: _Worker, reference: Any, done: dict[int, Any], again: list[_Item]) -> None:
        try:
            result = self._ray.get(reference)
        except self._deaths() as error:
            self._lost(worker, again, error)
            return
        item = worker.items.pop(reference)
        if isinstance(result, _Failure):
            raise result.error()
        done[item.number] = result

    def _lost(self, worker: _Worker, again: list[_Item], error: Exception) -> None:
        """A worker, or the node that held its result, is gone."""
        self._ready.remove(worker)
        with suppress(Exception):
            self._ray.kill(worker.handle)
        for item in worker.items.values():
            item.deaths += 1
            if item.deaths >= _DEATHS:
                raise BackboneError(
                    f"{_DEATHS} Ray workers ended with the same work ({_first_line(error)}); what is done is kept, "
                    "and the same command continues"
                ) from None
            again.append(item)
        # What the results wait for comes first.
        again.sort(key=lambda item: item.number)
        worker.items.clear()

    def _deaths(self) -> tuple[type[Exception], ...]:
        lost = self._ray.exceptions
        return (lost.RayActorError, lost.WorkerCrashedError, lost.OutOfMemoryError, lost.ObjectLostError)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
