"""How often a fleet encodes a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.studies.processes.fleet import measure


@pytest.mark.slow
def test_a_precomputed_file_saves_all_encoding(tmp_path: Path) -> None:
    texts = [f"{number}. Cats of kind {number} sleep long." for number in range(30)]
    apart, together, precomputed = measure(texts, (), tmp_path, replicas=2)
    assert apart.documents == 30 and apart.requests == 10
    # Each replica meets each window, or nearly: two or three of five queries come to it.
    assert 30 < apart.encoded <= 60
    assert 30 <= together.encoded <= apart.encoded
    assert precomputed.encoded == 0
