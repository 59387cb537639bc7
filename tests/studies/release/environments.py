"""An environment like that of ``make dist``, without a download: what it holds is linked from the tests' own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "environment_of"]


def closure(name: str = "rh-connector") -> Mapping[str, Distribution]:
    """What is installed with a package without its extras: by name, without itself."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset[str]())]
    while waiting:
        package, extras = waiting.pop()
        for line in distribution(package).requires or ():
            wanted = Requirement(line)
            asked = [wanted.marker is None or wanted.marker.evaluate({"extra": one}) for one in ("", *extras)]
            key = canonicalize_name(wanted.name)
            if any(asked) and (key not in found or wanted.extras):
                found[key] = distribution(key)
                waiting.append((key, frozenset(wanted.extras)))
    return found


def environment_of(folder: Path, wheel: Path, brought: Mapping[str, Distribution]) -> Path:
    """Install a wheel alone into a new environment without pip, and link what else it holds: its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for each in brought.values():
        source = next(Path(str(file.locate())).parent for file in each.files or () if file.name == "METADATA")
        (packages / source.name).symlink_to(source)
    return python
