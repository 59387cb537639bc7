"""What tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.tiny_gguf import write_llama


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's file."""
    path = tmp_path_factory.mktemp("gguf") / "Tiny.Q0.gguf"
    write_llama(path)
    return path
