"""A few deaths of each kind, and what is told where there is no memory cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.campaign.__main__ import main
from tests.campaign.services import memory_groups
from tests.campaign.services.memory_groups import NoMemoryGroup, memory_group, parent_for
from tests.campaign.services.overruns import overruns
from tests.campaign.services.restarts import restarts

_GREEDY = "kept = []\nwhile True: kept.append(bytearray(1_000_000))"


@pytest.fixture
def _groups() -> None:
    try:
        with memory_group():
            pass
    except NoMemoryGroup as error:
        # For the machine's sake, never for a defect's: where version 1 can be written to, a group can be made.
        found = parent_for(Path("/proc/self/cgroup").read_text(), Path("/proc/mounts").read_text())
        assert found is None or found[1] or not os.access(found[0], os.W_OK), error
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


def test_a_group_goes_below_ones_own_and_in_version_2_beside_it(tmp_path: Path) -> None:
    old, new = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n", f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert parent_for("4:memory:/jobs/one\n0::/\n", old) == (Path("/sys/fs/cgroup/memory/jobs/one"), False)
    assert parent_for("0::/user.slice/session-3.scope\n", new) == (tmp_path / "user.slice", True)
    assert parent_for("0::/\n", new) == (tmp_path, True)
    # Both are mounted, and version 1 has the controller.
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert parent_for("4:memory:/\n0::/\n", new + old) == (Path("/sys/fs/cgroup/memory"), False)
    assert parent_for("0::/\n", new) is None


def test_where_no_group_can_be_made_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No folder of a cgroup file system: there is no such file.
    monkeypatch.setattr(memory_groups, "parent_for", lambda groups, mounts: (tmp_path / "none", True))
    run = CliRunner().invoke(main, ["overruns", "--rounds", "1", "--keep", str(tmp_path / "kept.jsonl")])
    assert run.exit_code == 1 and run.output.startswith("Error: no memory cgroup can be made here: ")
    assert run.output.count("\n") == 1 and not (tmp_path / "kept.jsonl").exists()
