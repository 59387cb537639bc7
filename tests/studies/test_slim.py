"""What is told of an environment is so: sizes, packages, and starts of the real program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from connector.errors import SettingsError
from connector.sections import Settings
from connector.studies.slim import first_answer, megabytes, packages, served_answer


@pytest.fixture
def program(settings: Settings) -> list[str]:
    given = (f"cache.path={settings.cache.path}", "backbone.runtime=torch")
    words = [word for assignment in given for word in ("--set", assignment)]
    return [str(Path(sys.executable).with_name("rh-connector")), "--config", "/dev/null", *words]


def test_megabytes_are_of_files_and_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 1_500_000)
    (tmp_path / "two").write_bytes(b"x" * 500_000)
    (tmp_path / "three").symlink_to(tmp_path / "two")
    assert megabytes(tmp_path) == 2.0


def test_packages_are_those_beside_the_interpreter() -> None:
    assert "numpy" in packages(Path(sys.executable))


@pytest.mark.bench
def test_first_answers_are_real(program: list[str]) -> None:
    assert first_answer(program) > 0
    assert served_answer(program) > 0


@pytest.mark.slow
def test_a_program_that_fails_is_told() -> None:
    program = [str(Path(sys.executable).with_name("rh-connector")), "--config", "/dev/null"]
    broken = [*program, "--set", "backbone.model=/nowhere"]
    with pytest.raises(SettingsError, match="failed: .*nowhere"):
        first_answer(broken)
    with pytest.raises(SettingsError, match="no answer within a minute"):
        served_answer([*program, "--set", "serve.hots=nonsense"])
