"""A few searches of each fault of a cluster."""

from __future__ import annotations

import pytest

from tests.campaign.clusters import clusters
from tests.campaign.faulty_proxy import FAULTS


@pytest.mark.slow
def test_faults_of_a_cluster_lose_no_hit() -> None:
    rows = list(clusters(2))
    assert len(rows) == 2 * len(FAULTS) + 1 and all(row.survived == row.tried == 2 for row in rows), rows
