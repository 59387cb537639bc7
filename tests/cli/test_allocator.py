"""malloc's thresholds are raised where there is a glibc, and nothing happens elsewhere."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from connector.cli.allocator import keep_big_buffers


def test_glibc_takes_the_thresholds() -> None:
    assert keep_big_buffers() == (platform.libc_ver()[0] == "glibc")


def test_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_big_buffers() is False


def test_the_library_leaves_its_process_alone() -> None:
    imported = "import connector, connector.reranking.reranker, sys; print('connector.cli.allocator' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
