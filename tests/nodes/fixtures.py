"""Nodes for the test session: fetched once a machine, started once a session, stopped at its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.nodes import elasticsearch, opensearch
from tests.nodes.process import Node, Starting, find_java
from tests.nodes.release import NodeError, NoJava

__all__ = ["NODES", "MortalNode", "SessionNodes", "mortal", "node_folder", "running"]

NODES = ("opensearch_node", "opensearch_3_node", "elasticsearch_node")
"""The fixtures that give a test a real node."""


def node_folder() -> Path:
    """Where fetched nodes are kept: ``RH_TEST_NODES``, else a folder that every user may enter.

    A node refuses to run as root, and root's own folders are closed to the user that it then runs as.
    """
    named = os.environ.get("RH_TEST_NODES")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/tmp/rh-connector-nodes")
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rh-connector" / "nodes"


@contextmanager
def running(version: str, *, port: int = 0, homes: Path | None = None) -> Iterator[Node]:
    """A fresh node of that version (2.x, 3.x: OpenSearch; 8.x, 9.x: Elasticsearch).

    Raises:
        NodeError: Java or Maven is missing, or the node did not come up.
    """
    with _started(version, port=port, homes=homes) as starting:
        yield starting.ready()


@contextmanager
def _started(version: str, *, port: int = 0, homes: Path | None = None) -> Iterator[Starting]:
    with _laid_out(version, homes) as (start, data):
        starting = start(data, port)
        try:
            yield starting
        finally:
            starting.stop()


@contextmanager
def _laid_out(version: str, homes: Path | None = None) -> Iterator[tuple[Callable[[Path, int], Starting], Path]]:
    """What starts a node on a folder and a port, and such a folder."""
    product = opensearch if version in opensearch.RELEASES else elasticsearch
    folder = node_folder() if homes is None else homes
    folder.mkdir(parents=True, exist_ok=True)
    home = product.install(folder / f"{product.__name__.rpartition('.')[2]}-{version}", version)
    # Not pytest's folder: root's is closed to the node's user.
    data = Path(tempfile.mkdtemp(prefix=f"rh-node-{version}-"))
    data.chmod(0o755)
    try:
        yield lambda given, port: product.start(home, version, given, port=port), data
    finally:
        shutil.rmtree(data, ignore_errors=True)


class MortalNode:
    """A node that may be killed and started again, with the same address and the same data.

    Attributes:
        url: where it answers, or answered.
        version: of the product.
    """

    def __init__(self, version: str, start: Callable[[Path, int], Starting], data: Path) -> None:
        self.version, self._start, self._data = version, start, data
        self._starting = start(data, 0)
        self.url = self._starting.ready().url

    def kill(self) -> None:
        """End it at once, in whatever it does."""
        self._starting.process.kill()
        self._starting.process.wait()

    def start_again(self) -> None:
        """Wait until it answers and its cluster is yellow or green.

        Raises:
            NodeError: it did not come up.
        """
        self._starting = self._start(self._data, int(self.url.rpartition(":")[2]))
        self._starting.ready()

    def stop(self) -> None:
        """End it in order."""
        self._starting.stop()


@contextmanager
def mortal(version: str) -> Iterator[MortalNode]:
    """A fresh node that may be killed.

    Raises:
        NodeError: Java or Maven is missing, or the node did not come up.
    """
    with _laid_out(version) as (start, data):
        node = MortalNode(version, start, data)
        try:
            yield node
        finally:
            node.stop()


class SessionNodes:
    """The nodes of a test session, each started at most once: those that are wanted boot while other tests run."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._started: dict[str, Starting | NodeError] = {}
        self._ready: dict[str, Node] = {}

    def begin(self, name: str) -> None:
        """Start the process of one of ``NODES``, if it has not been; what goes wrong is kept for who asks for it."""
        if name in self._started:
            return
        try:
            self._started[name] = self._open.enter_context(_started(_version(name)))
        except NodeError as error:
            self._started[name] = error

    def get(self, name: str) -> Node:
        """That node, once it answers.

        Raises:
            NodeError: Java or Maven is missing, or the node did not come up.
        """
        self.begin(name)
        starting = self._started[name]
        if isinstance(starting, NodeError):
            raise starting
        if name not in self._ready:
            self._ready[name] = starting.ready()
        return self._ready[name]

    def stop(self) -> None:
        """End them, all at once."""
        for starting in self._started.values():
            if isinstance(starting, Starting):
                starting.ask_to_stop()
        self._open.close()


def _version(name: str) -> str:
    if name == "opensearch_node":
        return "2.19.1"
    if name == "opensearch_3_node":
        return "3.6.0"
    try:
        find_java(elasticsearch.RELEASES["9.1.0"])
    except NoJava:
        return "8.17.0"
    return "9.1.0"
