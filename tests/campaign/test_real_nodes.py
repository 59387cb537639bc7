"""A search or two of each fault before real nodes, and a kill of each."""

from __future__ import annotations

import pytest

from tests.campaign.faulty_proxy import FAULTS
from tests.campaign.real_nodes import real_nodes


@pytest.mark.nodes
def test_faults_and_kills_of_real_nodes_lose_no_hit() -> None:
    rows = list(real_nodes(2))
    assert len(rows) == 2 * (len(FAULTS) + 1) and all(row.survived == row.tried >= 2 for row in rows), rows
    killed = [row for row in rows if "kill -9" in row.what]
    assert len(killed) == 2 and all(row.tried > 20 and "2 kills" in row.note for row in killed), killed
