"""The page in a real browser: by mouse, by keys, on a phone, in the dark; and no script of a document runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connector.reranking.reranker import Reranker
from connector.studies.page_pictures import resize, take_pictures
from tests.browsing import DESKTOP, NARROW, NEEDS_BROWSER, PHONE, broken_words
from tests.service.live import serving
from tests.service.page.conftest import QUERY, settings_of
from tests.service.waiting import wait_until

pytestmark = NEEDS_BROWSER
ADDRESS = "/ui?q=how+long+do+cats+sleep"


@pytest.fixture
def look(browser: Any, page_url: str) -> Callable[..., Any]:
    """Opens an address of the page; ends with what the browser complained about, which must be nothing."""

    def opened(address: str = ADDRESS, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Any:
        resize(browser, *size, dark=dark)
        # A new page, also where only the part behind # differs.
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(page_url + address)
        return browser

    return opened


def all_of(driver: Any, selector: str) -> list[Any]:
    found: list[Any] = driver.find_elements("css selector", selector)
    return found


def one(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def seen(driver: Any, selector: str) -> list[str]:
    return [element.text for element in all_of(driver, selector) if element.is_displayed()]


def complaints(driver: Any) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser")]


def test_from_a_question_to_an_explanation_without_a_mouse(look: Callable[..., Any], reranker: Reranker) -> None:
    driver = look("/")
    focused = driver.switch_to.active_element
    assert focused.get_attribute("id") == "q"
    focused.send_keys(QUERY + "\n")
    wait_until(lambda: bool(all_of(driver, ".after .hit")))
    assert driver.current_url.endswith("window=20&mode=") and "q=how+long+do+cats+sleep" in driver.current_url
    assert all_of(driver, ".before .hit") and seen(driver, ".after h3")[0] == "About cats"
    driver.execute_script("document.activeElement.blur()")
    one(driver, "body").send_keys("/")
    assert driver.switch_to.active_element.get_attribute("id") == "q"
    for _ in range(40):
        if driver.switch_to.active_element.tag_name == "summary":
            break
        driver.switch_to.active_element.send_keys("\ue004")
    summary = driver.switch_to.active_element
    assert summary.tag_name == "summary"
    summary.send_keys("\n")
    wait_until(lambda: bool(seen(driver, "details[open] .sum")))
    assert [row.split("\n")[0] for row in seen(driver, "details[open] .sum tbody th")][:2] == [
        "starting point",
        "probe",
    ]
    assert "cats sleep" in one(driver, "details[open] .text mark").text
    wait_until(lambda: "#d" in driver.current_url)
    assert complaints(driver) == []


def test_the_address_opens_the_same_explanation(look: Callable[..., Any]) -> None:
    driver = look()
    key = all_of(driver, ".after .hit")[1].get_attribute("data-key")
    shared = look(f"{ADDRESS}&window=5&mode=static#d{key}")
    wait_until(lambda: bool(all_of(shared, "details[open]")))
    assert [details.get_attribute("id") for details in all_of(shared, "details[open]")] == [f"d{key}"]
    assert one(shared, "select[name=window]").get_attribute("value") == "5"
    assert one(shared, "select[name=mode]").get_attribute("value") == "static"
    assert complaints(shared) == []


def test_badges_and_lines_tell_the_moves(look: Callable[..., Any]) -> None:
    driver = look()
    before = [hit.get_attribute("data-key") for hit in all_of(driver, ".before .hit")]
    after = [hit.get_attribute("data-key") for hit in all_of(driver, ".after .hit")]
    badges = seen(driver, ".after .badge")
    for place, (key, badge) in enumerate(zip(after, badges, strict=True)):
        up = before.index(key) - place
        assert badge.startswith("stays" if up == 0 else f"▲ {up}" if up > 0 else f"▼ {-up}")
    assert [path.get_attribute("data-key") for path in all_of(driver, ".lines path")] == after
    moved = next(badge for badge in all_of(driver, ".after .badge") if "▲" in badge.text)
    moved.click()
    twins = {hit.get_attribute("id") for hit in all_of(driver, ".hit.twin")}
    assert twins == {
        moved.get_attribute("href").partition("#")[2],
        moved.get_attribute("href").partition("#")[2].replace("b", "a"),
    }


def test_a_control_searches_anew(look: Callable[..., Any]) -> None:
    driver = look()
    driver.execute_script(
        "const all = document.querySelector('select[name=window]'); all.value = '5';"
        "all.dispatchEvent(new Event('change', { bubbles: true }))"
    )
    wait_until(lambda: "window=5" in driver.current_url and len(all_of(driver, ".after .hit")) == 5)


def test_a_phone_shows_one_list_at_a_time_and_nothing_sticks_out(look: Callable[..., Any]) -> None:
    driver = look(size=PHONE)
    assert seen(driver, ".after h3") and not seen(driver, ".before h3")
    one(driver, ".after summary").click()
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= PHONE[0]
    one(driver, "label[for=tab-before]").click()
    assert seen(driver, ".before h3") and not seen(driver, ".after h3")
    one(driver, ".before .badge").click()
    assert seen(driver, ".after h3") and not seen(driver, ".before h3")
    assert complaints(driver) == []


def test_a_narrow_phone_breaks_no_word_and_cuts_no_choice(look: Callable[..., Any]) -> None:
    driver = look(size=NARROW)
    for summary in all_of(driver, ".after summary"):
        driver.execute_script("arguments[0].click()", summary)
    assert seen(driver, ".sum th").count("starting point") == len(all_of(driver, ".after .hit"))
    assert broken_words(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= NARROW[0]
    # The tables show all they hold without being pushed.
    assert driver.execute_script(
        "return [...document.querySelectorAll('.scroll')].every((each) => each.scrollWidth <= each.clientWidth)"
    )
    # As wide as it would be with all the room that it wants.
    wanted = driver.execute_script(
        "return [...document.querySelectorAll('select')].map((each) => {"
        "const alone = each.cloneNode(true); alone.style.cssText = 'position: absolute; width: max-content';"
        "each.parentElement.append(alone); const wide = alone.offsetWidth; alone.remove();"
        "return [each.offsetWidth, wide]; })"
    )
    assert len(wanted) == 2 and all(given >= wide for given, wide in wanted)
    assert complaints(driver) == []


def test_in_the_dark(look: Callable[..., Any]) -> None:
    def brightness() -> float:
        colour = one(driver, "body").value_of_css_property("background-color")
        return sum(int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]) / 3

    driver = look()
    light = brightness()
    driver = look(dark=True)
    assert brightness() < 60 < 200 < light


def test_markup_of_documents_and_queries_stays_text(look: Callable[..., Any]) -> None:
    evil = "/ui?q=%22%3E%3Cscript%3Edocument.title%3D'taken'%3C/script%3E%20cats%20sleep%20script"
    driver = look(evil)
    assert "taken" not in driver.title.replace("document.title='taken'", "")
    assert not all_of(driver, "img") and len(all_of(driver, "script")) == 1
    assert any("<script>" in text for text in seen(driver, ".after .snippet"))
    # Were one let in by mistake, the policy would stop it.
    driver.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title=1\">');"
    )
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.title != "1" and any("Content Security Policy" in told for told in complaints(driver))


def test_nothing_is_loaded_from_elsewhere(look: Callable[..., Any]) -> None:
    driver = look()
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_pictures_for_the_docs(reranker: Reranker, indexes: Path, tmp_path: Path) -> None:
    with serving(reranker, settings_of(indexes)) as (url, _):
        taken = take_pictures(url, tmp_path, "how long do cats sleep")
    assert {path.name for path in taken} == {path.name for path in _pictures()}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in taken)


def _pictures() -> list[Path]:
    return sorted((Path(__file__).parents[3] / "docs" / "images").glob("page-*.png"))


def test_pictures_of_the_docs_are_small() -> None:
    assert _pictures() and all(path.stat().st_size < 150_000 for path in _pictures())
