"""A few deaths of each kind, and what is told where there is no memory cgroup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.campaign.__main__ import main
from tests.campaign.services import memory_groups
from tests.campaign.services.memory_groups import NoMemoryGroup, memory_group
from tests.campaign.services.overruns import overruns
from tests.campaign.services.restarts import restarts

_GREEDY = "kept = []\nwhile True: kept.append(bytearray(1_000_000))"


@pytest.fixture
def _groups() -> None:
    try:
        with memory_group():
            pass
    except NoMemoryGroup as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_service_that_is_killed_comes_back() -> None:
    (row,) = restarts(2)
    assert row.survived == row.tried == 2, row


@pytest.mark.slow
@pytest.mark.usefixtures("_groups")
def test_a_service_that_the_kernel_kills_comes_back() -> None:
    (row,) = overruns(2)
    assert row.survived == row.tried == 2, row


@pytest.mark.usefixtures("_groups")
def test_the_kernel_kills_what_takes_more_than_its_group_has() -> None:
    with memory_group() as group:
        group.limit(50_000_000)
        done = subprocess.run([*group.within, sys.executable, "-c", _GREEDY], check=False, timeout=60)
        assert (done.returncode, group.kills()) == (-9, 1)
        group.limit(1_000_000_000)
        done = subprocess.run([*group.within, sys.executable, "-c", "bytearray(60_000_000)"], check=False, timeout=60)
        assert (done.returncode, group.kills()) == (0, 1)
    assert not group.path.exists()


def test_where_no_group_can_be_made_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No folder of a cgroup file system: there is no such file.
    monkeypatch.setattr(memory_groups, "_own_group", lambda: (tmp_path / "none", True))
    run = CliRunner().invoke(main, ["overruns", "--rounds", "1", "--keep", str(tmp_path / "kept.jsonl")])
    assert run.exit_code == 1 and run.output.startswith("Error: no memory cgroup can be made here: ")
    assert run.output.count("\n") == 1 and not (tmp_path / "kept.jsonl").exists()
