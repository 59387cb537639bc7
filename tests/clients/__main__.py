"""``python -m tests.clients``: run the clients that are here, and write their rows into docs/http-api.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clients.table import PAGE, Row, marked, merged, read_table, row_of, with_table


class _Recorder:
    """Which rows ran, in which version, and whether all of their tests passed."""

    def __init__(self) -> None:
        self.found: dict[Row, tuple[str, bool]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> object:
        report: pytest.TestReport = yield  # type: ignore[misc,assignment]
        marker = item.get_closest_marker("client")
        if marker is not None and not report.skipped and (report.when == "call" or report.failed):
            row, ran = row_of(marker)
            if ran is not None:
                self.found[row] = (ran, report.passed and self.found.get(row, (ran, True))[1])
        return report


def main() -> int:
    """Exit status of pytest."""
    recorder = _Recorder()
    folder = str(Path(__file__).parent)
    # The page that this run writes is not what it checks. Some clients leave their sockets open.
    options = [f"--ignore={folder}/test_table.py", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    status = pytest.main([folder, *options, *sys.argv[1:]], plugins=[recorder])
    page = PAGE.read_text(encoding="utf-8")
    rows = read_table(page)
    for row, (ran, works) in recorder.found.items():
        rows[row] = merged(rows.get(row), ran, works)
    known = marked()
    PAGE.write_text(with_table(page, {row: told for row, told in rows.items() if row in known}), encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
