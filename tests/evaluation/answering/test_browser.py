"""The page of ``evaluate --report`` in a real browser: read, opened by keys, on a phone, in the dark, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connector.studies.page_pictures import resize, take_report_picture
from tests.browsing import DESKTOP, NARROW, NEEDS_BROWSER, PHONE, broken_words
from tests.evaluation.answering.test_page import page_of

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page_of(), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Any, report: Path) -> Any:
    resize(browser, *DESKTOP)
    browser.get(report.as_uri())
    return browser


def all_of(driver: Any, selector: str) -> list[Any]:
    found: list[Any] = driver.find_elements("css selector", selector)
    return found


def test_the_verdict_is_what_is_seen_first(shown: Any) -> None:
    (verdict,) = all_of(shown, "h1")
    assert verdict.is_displayed() and verdict.rect["y"] < 200
    assert "than the first stage" in verdict.text and "95 % interval" in verdict.text
    assert shown.get_log("browser") == []


def test_charts_are_drawn_and_have_names(shown: Any) -> None:
    charts = all_of(shown, "svg")
    assert len(charts) >= 2
    for chart in charts:
        assert chart.rect["width"] > 200 and chart.rect["height"] > 40
        assert chart.get_attribute("aria-label") or all_of(chart, "title")


def test_a_query_opens_by_keys_with_its_lists_side_by_side(shown: Any) -> None:
    closed = next(one for one in all_of(shown, "details") if one.get_attribute("open") is None)
    lists = closed.find_elements("css selector", ".lists section")
    assert not any(one.is_displayed() for one in lists)
    closed.find_element("css selector", "summary").send_keys("\n")
    first, reranked = lists
    assert first.is_displayed() and first.rect["y"] == reranked.rect["y"] and first.rect["x"] < reranked.rect["x"]
    assert closed.find_elements("css selector", "li.relevant")


def test_on_a_phone_nothing_sticks_out(shown: Any) -> None:
    resize(shown, *PHONE)
    assert shown.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]


def test_on_a_phone_the_words_of_charts_can_be_read(shown: Any) -> None:
    resize(shown, *PHONE)
    heights = [word.rect["height"] for word in all_of(shown, "svg text")]
    assert heights and min(heights) >= 9


@pytest.mark.parametrize("size", [NARROW, (1000, 800)])
def test_no_word_is_broken_and_columns_of_words_are_wide(shown: Any, size: tuple[int, int]) -> None:
    resize(shown, *size)
    for closed in all_of(shown, "details"):
        shown.execute_script("arguments[0].open = true", closed)
    assert any(one.text == "rerank.fusion=none" for one in all_of(shown, "code"))
    assert broken_words(shown) == []
    assert all(cell.rect["width"] > 150 for cell in all_of(shown, "td.what"))
    assert shown.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_in_the_dark(shown: Any) -> None:
    def brightness() -> float:
        colour = all_of(shown, "html")[0].value_of_css_property("background-color")
        body = all_of(shown, "body")[0].value_of_css_property("background-color")
        painted = body if "0, 0, 0, 0" in colour.replace("rgba(", "") else colour
        return sum(int(part) for part in painted.partition("(")[2].rstrip(")").split(",")[:3]) / 3

    light = brightness()
    resize(shown, *DESKTOP, dark=True)
    assert brightness() < light


def test_nothing_is_loaded(shown: Any) -> None:
    loaded = shown.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_its_picture_for_the_docs(report: Path, tmp_path: Path) -> None:
    taken = take_report_picture(report, tmp_path)
    kept = Path(__file__).parents[3] / "docs" / "images" / taken.name
    assert taken.read_bytes().startswith(b"\x89PNG") and kept.stat().st_size < 150_000
