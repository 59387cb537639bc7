"""``python -m tests.nodes opensearch``: a real node until Ctrl-C, to try things on."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.nodes import elasticsearch, opensearch
from tests.nodes.fixtures import node_folder, running
from tests.nodes.release import NodeError


def main() -> int:
    """Fetch, start, print the URL, wait for a signal, stop."""
    releases = {**opensearch.RELEASES, **elasticsearch.RELEASES}
    parser = argparse.ArgumentParser(prog="python -m tests.nodes", description=__doc__)
    parser.add_argument(
        "version", choices=sorted(releases), help="2.x and 3.x: OpenSearch; 8.x and 9.x: Elasticsearch"
    )
    parser.add_argument("--port", type=int, default=9200, help="0: a free one")
    parser.add_argument("--homes", type=Path, default=node_folder(), help="where fetched nodes are kept")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the node would outlive us
    try:
        with running(given.version, port=given.port, homes=given.homes) as node:
            print(f"{releases[given.version].product} {node.version} at {node.url}, Ctrl-C ends it", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except NodeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
