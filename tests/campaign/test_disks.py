"""A few full disks of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.disks import disks
from tests.disks import mounted


@pytest.mark.slow
def test_full_disks_lose_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "try", "-t", "tmpfs", "tmpfs"):
        pass
    rows = list(disks(3))
    assert len(rows) == 7 and all(row.survived == row.tried == 3 for row in rows), rows
