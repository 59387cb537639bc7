"""``make audit`` with the real pip-audit, at a service of this machine that knows what the test says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from packaging.utils import canonicalize_name

from tests.studies.release.conftest import ROOT
from tests.studies.release.environments import closure, environment_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as ``make dist`` makes it."""
    (wheel,) = built.glob("*.whl")
    return environment_of(tmp_path_factory.mktemp("release") / "clean", wheel, closure()).parents[1]


@contextmanager
def advisories(known: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A service in OSV's form: its URL, and the packages that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            asked.append(name)
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}}]
            found = {"vulns": [{"id": known.get(name), "summary": "made up", "affected": affected}]}
            body = json.dumps(found if name in known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        server.shutdown()
        thread.join()


def audited(clean: Path, url: str, cache: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    flags = f"--vulnerability-service osv --osv-url {url} --cache-dir {cache} {more}"
    given = [f"BIN={Path(sys.executable).parent}", f"CLEAN={clean}", f"AUDIT_FLAGS={flags}"]
    command = ["make", "-o", ".venv/.installed", "audit", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_package_is_asked_for(clean: Path, tmp_path: Path) -> None:
    with advisories({}) as (url, asked):
        made = audited(clean, url, tmp_path)
    assert made.returncode == 0 and "No known vulnerabilities" in made.stderr, made.stdout + made.stderr
    assert sorted(asked) == sorted(canonicalize_name(name) for name in closure())


def test_what_is_known_ends_the_release(clean: Path, tmp_path: Path) -> None:
    with advisories({"jinja2": "MADE-UP-2026-1"}) as (url, _):
        made = audited(clean, url, tmp_path)
        assert made.returncode and "MADE-UP-2026-1" in made.stdout, made.stdout + made.stderr
        # What does not concern us is named.
        assert audited(clean, url, tmp_path, "--ignore-vuln MADE-UP-2026-1").returncode == 0


def test_a_service_that_is_not_reached_is_no_pass(clean: Path, tmp_path: Path) -> None:
    with advisories({}) as (url, _):
        pass
    assert audited(clean, url, tmp_path).returncode
