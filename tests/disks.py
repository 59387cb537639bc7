"""Disks as users have them: full ones, and folders that nobody may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["mounted", "read_only"]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    if not folder.is_file():
        folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None or subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    """Also where tantivy's thread that watches an index looks at it a last time: it ends within half a second."""
    for _ in range(100):
        done = subprocess.run(["umount", folder], capture_output=True, text=True)
        if "busy" not in done.stderr:
            break
        time.sleep(0.1)
    assert not done.returncode, done.stderr


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that nobody may write; rights alone do not stop root."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield folder
        finally:
            folder.chmod(0o755)
        return
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield folder
