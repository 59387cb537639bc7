"""What a command sets for its own process: malloc's thresholds, and how long threads wait in a loop."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import ModuleType

import pytest

from connector import cli
from connector.cli.own_process import keep_big_buffers, wait_briefly


def test_glibc_takes_the_thresholds() -> None:
    assert keep_big_buffers() == (platform.libc_ver()[0] == "glibc")


def test_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_big_buffers() is False


def test_the_library_leaves_its_process_alone() -> None:
    imported = (
        "import connector, connector.reranking.reranker, sys; print('connector.cli.own_process' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        # Setting first makes the test's end take back what was set in it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.usefixtures("_nothing_said")
def test_threads_wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert wait_briefly()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0


@pytest.mark.usefixtures("_nothing_said")
@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_environment_says_of_waiting_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == (value if name == "GOMP_SPINCOUNT" else None)


@pytest.mark.usefixtures("_nothing_said")
def test_where_torch_has_another_openmp_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.usefixtures("_nothing_said")
def test_once_torch_is_loaded_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert not wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_no_torch_is_loaded_before_a_command_runs() -> None:
    imported = "import sys, connector.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_command_sets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(cli, "keep_big_buffers", lambda: done.append("memory"))
    monkeypatch.setattr(cli, "wait_briefly", lambda: done.append("threads"))
    monkeypatch.setattr(sys, "argv", ["rh-connector", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert done == ["memory", "threads"]
    with pytest.raises(SystemExit):
        # Called from Python.
        cli.main(["--version"])
    assert len(done) == 2
