"""A node as a process: which Java runs it, when it is ready, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.nodes.release import NodeError, NoJava, Release

__all__ = ["COMMON_FLAGS", "Node", "Starting", "find_java", "launch"]

# Search servers refuse to run as root: then the node runs as this user.
_UNPRIVILEGED = 65534
# For a quick start on few cores, not for throughput.
COMMON_FLAGS = [
    "-Xms512m",
    "-Xmx1g",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dfile.encoding=UTF-8",
    "-Djava.awt.headless=true",
    "-Djna.nosys=true",
    "-Dio.netty.noUnsafe=true",
    "-Dio.netty.noKeySetOptimization=true",
    "-Dio.netty.recycler.maxCapacityPerThread=0",
    "-Dio.netty.allocator.numDirectArenas=0",
    "-Dlog4j2.disable.jmx=true",
    "-Dlog4j.shutdownHookEnabled=false",
]
_LOGGING = """\
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d{{ISO8601}}][%-5p][%-25c{{1.}}] %m%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


@dataclass(frozen=True)
class Node:
    """A node that answers at ``url``."""

    url: str
    version: str


@dataclass(frozen=True)
class Starting:
    """A node whose process runs; whether it answers yet is not known. What it wrote stays in ``data``."""

    version: str
    data: Path
    process: subprocess.Popen[bytes]

    def ready(self, patience: float = 180.0) -> Node:
        """Wait until the cluster is yellow or green.

        Raises:
            NodeError: it ended, or is not ready in so many seconds; the last words of its log are in the message.
        """
        return Node(_when_ready(self.process, self.data / "logs", time.monotonic() + patience), self.version)

    def ask_to_stop(self) -> None:
        """Let it end; ``stop`` waits for that."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, patience: float = 30.0) -> None:
        """End it."""
        self.ask_to_stop()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def prepare(data: Path, settings: dict[str, str], file: str) -> None:
    """The folders of one node with its settings and logging."""
    for name in ("config", "data", "logs", "tmp"):
        (data / name).mkdir(parents=True, exist_ok=True)
    # The address in an old log belongs to another run.
    (data / "logs" / "node.log").unlink(missing_ok=True)
    lines = (f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    (data / "config" / file).write_text("".join(lines))
    (data / "config" / "log4j2.properties").write_text(_LOGGING.format(file=data / "logs" / "node.log"))


def common_settings(data: Path, port: int) -> dict[str, str]:
    """Settings that both products share: one node, on loopback."""
    return {
        "cluster.name": "rh-connector-tests",
        "node.name": "node-1",
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": str(port),
        "transport.port": "0",
        "path.data": str(data / "data"),
        "path.logs": str(data / "logs"),
        # A small test disk must not make indices read-only.
        "cluster.routing.allocation.disk.threshold_enabled": "false",
    }


def launch(command: list[str], release: Release, home: Path, data: Path, *, stdin: bytes = b"") -> Starting:
    """Start the process.

    Raises:
        NodeError: the user that it must run as cannot reach it.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("CLASSPATH", "JAVA_TOOL_OPTIONS")}
    # Elasticsearch's own main class insists on it.
    environment["LIBFFI_TMPDIR"] = str(data / "tmp")
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        _give_away(home, data)
        owner = {"user": _UNPRIVILEGED, "group": _UNPRIVILEGED, "extra_groups": []}
    with (data / "logs" / "stdout.log").open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=data,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            **owner,
        )
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(stdin)
    return Starting(release.version, data, process)


def _give_away(home: Path, data: Path) -> None:
    """As root: check that the unprivileged user can reach both, and hand it the data."""
    for path in (home, *home.parents, *data.parents):
        if not path.stat().st_mode & 0o001:
            raise NodeError(f"a node may not run as root, and user {_UNPRIVILEGED} cannot enter {path}")
    for path in (data, *data.rglob("*")):
        os.chown(path, _UNPRIVILEGED, _UNPRIVILEGED)


def _when_ready(process: subprocess.Popen[bytes], logs: Path, deadline: float) -> str:
    url = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NodeError(f"the node ended with {process.returncode}: {_last_words(logs)}")
        url = url or _published_url(logs)
        if url:
            with suppress(OSError, ValueError):
                query = f"{url}/_cluster/health?wait_for_status=yellow&timeout=1s"
                with urllib.request.urlopen(query, timeout=5) as answer:
                    if json.load(answer)["status"] in ("yellow", "green"):
                        return url
        time.sleep(0.2)
    raise NodeError(f"the node was not ready in time: {_last_words(logs)}")


def _log_text(logs: Path) -> str:
    files = (logs / "stdout.log", logs / "node.log")
    return "\n".join(file.read_text(errors="replace") for file in files if file.is_file())


def _published_url(logs: Path) -> str:
    """The HTTP address from the log: port 0 lets the system choose, so only the log tells."""
    found = re.search(r"HttpServerTransport\] .*publish_address \{(?:[^/}]*/)?([\d.:]+)\}", _log_text(logs))
    return f"http://{found[1]}" if found else ""


def _last_words(logs: Path) -> str:
    lines = [line for line in _log_text(logs).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Exception|Error|FATAL", line) and "\tat " not in line]
    return f"{' | '.join((telling or lines)[-3:])[:600]} (whole logs: {logs})"


def find_java(release: Release) -> Path:
    """The first fitting java of ``RH_TEST_JAVA_HOME``, ``JAVA_HOME``, the PATH and /usr/lib/jvm.

    Raises:
        NoJava: there is none; the message says which is needed, and why.
    """
    named = [os.environ.get(name) for name in ("RH_TEST_JAVA_HOME", "JAVA_HOME")]
    homes = [Path(value) for value in named if value]
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parent.parent)
    homes += sorted(Path("/usr/lib/jvm").glob("*/"))
    for home in homes:
        if not (home / "bin" / "java").exists() or (release.needs_compiler and not (home / "bin" / "javac").exists()):
            continue
        if release.java_min <= _major(home) <= release.java_max:
            return home / "bin" / "java"
    raise NoJava(
        f"{release.product} {release.version} needs {release.fitting_java} ({release.why_java}); "
        f"none was found, name one in JAVA_HOME"
    )


def _major(java_home: Path) -> int:
    try:
        text = (java_home / "release").read_text()
    except OSError:
        return 0
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', text)
    return int(found[1]) if found else 0
