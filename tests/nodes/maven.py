"""A home directory for a node: parts fetched by Maven once, laid out, and checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.nodes.release import NodeError, Release

__all__ = ["MARKER", "installed", "properties"]

MARKER = "installed.json"
# Goes up when the layout changes, so that old homes are made anew.
_LAYOUT = 1


def installed(
    home: Path, release: Release, parts_list: Path, lay_out: Callable[[Path, Release, list[Path]], None]
) -> Path:
    """The home of that release, made if it is not there yet.

    Args:
        home: where it is, or will be.
        release: which one.
        parts_list: a pom with a profile for the release.
        lay_out: puts the parts into a new home and checks them.

    Raises:
        NodeError: Maven is missing, could not fetch a part, or the parts do not fit.
    """
    wanted = {"version": release.version, "layout": _LAYOUT}
    marker = home / MARKER
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        return home
    if home.exists() and any(home.iterdir()) and not marker.is_file():
        raise NodeError(f"{home} is not empty and holds no node; name another folder")
    parts = _resolved(release, parts_list)
    home.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f"{home.name}.", dir=home.parent))
    # The node may run as another user and must be able to read.
    umask = os.umask(0o022)
    try:
        lay_out(stage, release, parts)
        (stage / MARKER).write_text(json.dumps(wanted))
        stage.chmod(0o755)
        if home.exists():
            shutil.rmtree(home)
        stage.rename(home)
    finally:
        os.umask(umask)
        shutil.rmtree(stage, ignore_errors=True)
    return home


def _resolved(release: Release, parts_list: Path) -> list[Path]:
    """All artifacts of the release in Maven's local repository."""
    mvn = shutil.which("mvn")
    if not mvn:
        raise NodeError(f"mvn was not found; install Apache Maven 3.6 or newer to fetch {release.product}")
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "classpath"
        command = [mvn, "-B", "-q", "-f", str(parts_list), "-P", f"{release.product}-{release.version}"]
        command += [
            "dependency:build-classpath",
            f"-Dmdep.outputFile={listing}",
            f"-Dmdep.pathSeparator={os.linesep}",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode or not listing.is_file():
            said = [line for line in done.stdout.splitlines() if "ERROR" in line][:1]
            raise NodeError(f"Maven could not fetch {release.product} {release.version}: {' '.join(said)}")
        return [Path(line) for line in listing.read_text().split(os.linesep) if line]


def properties(text: str) -> dict[str, str]:
    """A Java properties file."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}
