"""Steps: each leaves a file at once, goes on where it was, and stops no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.studies.gpu.steps import Step, StepFailed, read_records, run_process, run_steps

_WITH = {"device": "cpu", "tiny": True}


def test_what_failed_is_told_and_tried_again_and_what_is_done_is_not(tmp_path: Path) -> None:
    folder, done, told = tmp_path / "new" / "gpu", [], []
    broken = [True]

    def first(scratch: Path) -> dict[str, int]:
        assert list(scratch.iterdir()) == []
        done.append("first")
        return {"value": 1}

    def second(scratch: Path) -> dict[str, int]:
        if broken:
            run_process([sys.executable, "-c", "import sys; sys.exit('no such card')"])
        done.append("second")
        return {"value": 2}

    def third(scratch: Path) -> dict[str, int]:
        # What was measured before is on disk by now, whatever comes.
        assert read_records(folder)["first"]["found"] == {"value": 1}
        done.append("third")
        return {"value": 3}

    steps = [Step("first", first), Step("second", second), Step("third", third)]
    assert run_steps(steps, folder, _WITH, told.append) == 1
    assert done == ["first", "third"]
    assert "no such card" in (folder / "second.failed.txt").read_text()
    assert any("second FAILED: no such card" in each for each in told)
    broken.clear()
    assert run_steps(steps, folder, _WITH, told.append) == 0
    assert done == ["first", "third", "second"]
    assert {name: record["found"]["value"] for name, record in read_records(folder).items()} == {
        "first": 1,
        "second": 2,
        "third": 3,
    }
    assert not list(folder.glob("*.failed.txt")) and not list(folder.glob("*.partial"))


def test_results_of_another_device_are_not_mixed(tmp_path: Path) -> None:
    steps = [Step("one", lambda scratch: {})]
    run_steps(steps, tmp_path, _WITH, lambda told: None)
    with pytest.raises(DataError, match="name another folder"):
        run_steps(steps, tmp_path, {**_WITH, "device": "cuda"}, lambda told: None)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"step": "one"}'):
        (tmp_path / "one.json").write_text(text)
        with pytest.raises(DataError, match=r"one\.json"):
            read_records(tmp_path)


def test_a_process_says_what_it_said_last_and_has_no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RH_BACKBONE__DEVICE", "tpu")
    code = "import os; print([name for name in os.environ if name.startswith('RH_')])"
    assert run_process([sys.executable, "-c", code]).strip() == "[]"
    assert run_process([sys.executable, "-c", "import sys; print(1); sys.exit(1)"], may_end_with=(0, 1)) == "1\n"
    with pytest.raises(StepFailed, match=r"ended with 3\nlast words"):
        run_process([sys.executable, "-c", "print('last words'); raise SystemExit(3)"])
