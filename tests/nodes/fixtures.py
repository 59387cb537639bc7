"""Nodes for the test session: fetched once a machine, started once a session, stopped at its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.nodes import elasticsearch, opensearch
from tests.nodes.process import Node

__all__ = ["node_folder", "running"]


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
    product = opensearch if version in opensearch.RELEASES else elasticsearch
    folder = node_folder() if homes is None else homes
    folder.mkdir(parents=True, exist_ok=True)
    home = product.install(folder / f"{product.__name__.rpartition('.')[2]}-{version}", version)
    # Not pytest's folder: root's is closed to the node's user.
    data = Path(tempfile.mkdtemp(prefix=f"rh-node-{version}-"))
    data.chmod(0o755)
    try:
        node = product.start(home, version, data, port=port)
        try:
            yield node
        finally:
            node.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)
