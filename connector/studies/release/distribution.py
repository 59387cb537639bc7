"""What is built for a release: is all in it, and nothing else, and does it say what it is?

``python -m connector.studies.release.distribution FOLDER`` checks a folder's one wheel and one source archive.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.metadata import Metadata
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from connector import __version__

__all__ = ["faults"]

_PACKAGES = ("connector", "router_export")
# What only maintainers run.
_LEFT_OUT = "connector/studies/"
# The source archive builds the wheel, runs the tests and makes the pages.
_IN_SOURCES = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "config.yaml",
    "pyproject.toml",
    *(f"{folder}/" for folder in (*_PACKAGES, "connector/studies", "deploy", "docs", "examples", "tests")),
]
_WHEEL_ADDS = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def faults(folder: Path, tree: Path) -> list[str]:
    """What is wrong with a release, a line each; empty where nothing is.

    Args:
        folder: holds what was built.
        tree: the working tree that it was built from; its Python packages must be whole in the wheel.

    Raises:
        OSError, zipfile.BadZipFile, tarfile.ReadError: a file that cannot be read.
    """
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        return [f"{folder} holds {len(wheels)} wheels and {len(sources)} source archives; one of each is wanted"]
    return [*_of_wheel(wheels[0], tree), *_of_sources(sources[0])]


def _of_wheel(path: Path, tree: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        own = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
        wanted = set(_packaged(tree))
        found = [f"{path.name} lacks {name}" for name in sorted(wanted - names)]
        found += [f"{path.name} holds {name}, which is no part of it" for name in sorted(names - own - wanted)]
        found += [
            f"{path.name}: {name} is not what lies in the tree"
            for name in sorted(wanted & names)
            if archive.read(name) != (tree / name).read_bytes()
        ]
        missing = _WHEEL_ADDS - {name.partition("/")[2] for name in own}
        found += [f"{path.name} lacks {name} among its metadata" for name in sorted(missing)]
        described = next((name for name in own if name.endswith("/METADATA")), None)
        metadata = b"" if described is None else archive.read(described)
    try:
        _, version, _, _ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        return [*found, str(error)]
    return [*found, *_of_metadata(path.name, version, metadata)]


def _of_sources(path: Path) -> list[str]:
    try:
        _, version = parse_sdist_filename(path.name)
    except InvalidSdistFilename as error:
        return [str(error)]
    root = path.name.removesuffix(".tar.gz") + "/"
    with tarfile.open(path) as archive:
        names = {name.removeprefix(root) for name in archive.getnames() if name.startswith(root)}
        described = archive.extractfile(f"{root}PKG-INFO") if "PKG-INFO" in names else None
        metadata = b"" if described is None else described.read()
    found = [
        f"{path.name} lacks {wanted}"
        for wanted in _IN_SOURCES
        if wanted not in names and not any(wanted.endswith("/") and name.startswith(wanted) for name in names)
    ]
    made = sorted(name for name in names if "__pycache__" in name or name.partition("/")[0] in (".venv", "build"))
    found += [f"{path.name} holds {name}, which is made anew" for name in made]
    return [*found, *_of_metadata(path.name, version, metadata)]


def _of_metadata(name: str, version: Version, metadata: bytes) -> list[str]:
    """What an index would refuse, and what readers of its page would miss."""
    try:
        read = Metadata.from_email(metadata, validate=True)
    except ExceptionGroup as group:
        return [f"{name}: {error}" for error in group.exceptions]
    found = []
    if not str(read.version) == str(version) == __version__:
        found.append(f"{name} is version {version}, says {read.version}, and connector.__version__ is {__version__}")
    for key in ("summary", "description", "requires_python", "license_expression", "project_urls", "classifiers"):
        if not getattr(read, key):
            found.append(f"{name}: no {key}")
    return found


def _packaged(tree: Path) -> Iterable[str]:
    for package in _PACKAGES:
        for path in (tree / package).rglob("*"):
            name = path.relative_to(tree).as_posix()
            if path.is_file() and "__pycache__" not in path.parts and not name.startswith(_LEFT_OUT):
                yield name


def main(arguments: list[str]) -> int:
    """Print the faults; 1 where there are any."""
    found = faults(Path(arguments[0]), Path.cwd())
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
