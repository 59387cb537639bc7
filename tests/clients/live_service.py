"""``rh-connector serve`` in a process of its own, for clients that live in another environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from tests.service.waiting import wait_until

__all__ = ["KEY", "serving_process"]

KEY = "the-key"
"""The one key of the service."""

# Read here: tests run without the RH_… variables of the machine.
_PYTHON = os.environ.get("RH_TEST_SERVICE_PYTHON", sys.executable)
_ROOT = Path(__file__).parents[2]


@contextmanager
def serving_process(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """URL of a service that is ready; the model and all else are at their defaults.

    Args:
        settings: more of them, by dotted key.
    """
    given = {"serve.api_keys": KEY, **(settings or {})}
    options = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    command = [_PYTHON, "-c", "from connector.cli import main; main()", "--config", os.devnull, "--json", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RH_")}
    environment |= {"PYTHONPATH": str(_ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [*command, "serve", "--host", "127.0.0.1", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = str(json.loads(process.stdout.readline())["url"])

        def ready() -> bool:
            assert process.poll() is None, "the service ended: RH_TEST_SERVICE_PYTHON names a Python with torch"
            # It loads the LLM; asking leaves it the processor.
            time.sleep(0.2)
            with suppress(httpx2.TransportError):
                return httpx2.get(f"{url}/ready").status_code == 200
            return False

        wait_until(ready, seconds=300)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
