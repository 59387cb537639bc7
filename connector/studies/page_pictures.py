"""Pictures of the service's page for the docs, taken in a real browser.

``python -m connector.studies.page_pictures FOLDER`` serves the demo's index (``rh-connector demo`` makes it) and
writes the PNGs. With a REPORT behind it, a file of ``rh-connector evaluate --report``, it takes that one's picture
instead. It needs chromium and chromedriver.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from connector.engines.standard_library import QUESTIONS
from connector.errors import DataError
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.service.app import create_app
from connector.service.server import listen
from connector.settings import load_settings

__all__ = ["find_browser", "open_browser", "resize", "take_pictures", "take_report_picture"]

DESKTOP, PHONE = (1200, 800), (390, 780)
# Of a point of the page, in a picture of the desktop: small files that can still be read.
_SCALE = 0.7
# As the demo has them.
_OPTIONS = {
    "engine.index": "demo",
    "backbone.max_document_tokens": 128,
    "backbone.max_passages": 1,
    "rerank.window": 20,
}
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    # Grey edges of letters look the same on every screen, and make smaller files.
    "--disable-lcd-text",
)


def find_browser() -> tuple[str, str] | None:
    """Paths of chromium and its driver; None: they are not both installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser() -> Iterator[webdriver.Chrome]:
    """A browser without a window, with a profile of its own, that is closed afterwards.

    Raises:
        DataError: there is none.
    """
    found = find_browser()
    if found is None:
        raise DataError("chromium or chromedriver is missing; on Debian: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = found[0]
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(found[1]))
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: webdriver.Chrome, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
    """The window's inner size, colours and pixels a point; narrow ones are a phone's."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})


def take_pictures(url: str, folder: Path, question: str = QUESTIONS[-1]) -> list[Path]:
    """One query before and after, an explanation, and the same on a phone and in the dark.

    Args:
        url: of a service with the demo's index.
        folder: where the PNGs go.
        question: that is asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: list[Path] = []
    with open_browser() as driver:

        def take(name: str) -> None:
            path = folder / f"{name}.png"
            driver.save_screenshot(str(path))
            taken.append(path)

        resize(driver, *DESKTOP, scale=_SCALE)
        driver.get(url)
        driver.find_element(By.ID, "q").send_keys(question + "\n")
        WebDriverWait(driver, 120).until(lambda found: found.find_elements(By.CSS_SELECTOR, ".after .hit"))
        driver.execute_script("document.activeElement.blur()")
        take("page-side-by-side")
        driver.find_element(By.CSS_SELECTOR, ".after summary").click()
        driver.execute_script("document.activeElement.blur(); document.querySelector('#results').scrollIntoView()")
        take("page-explanation")
        resize(driver, *PHONE)
        driver.execute_script("scrollTo(0, 0)")
        take("page-phone")
        resize(driver, *DESKTOP, dark=True, scale=_SCALE)
        driver.execute_script("document.querySelector('#results').scrollIntoView()")
        take("page-dark")
    return taken


def take_report_picture(report: Path, folder: Path) -> Path:
    """The top of a report of ``rh-connector evaluate --report``: the verdict, and the charts.

    Args:
        report: the HTML file.
        folder: where the PNG goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.png"
    with open_browser() as driver:
        resize(driver, *DESKTOP, scale=_SCALE)
        driver.get(report.resolve().as_uri())
        driver.save_screenshot(str(path))
    return path


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    """URL of the service, with its model loaded."""
    app = create_app(Reranker.from_settings, settings)
    app.state.loading.load()
    if app.state.loading.error is not None:
        raise app.state.loading.error
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def main(arguments: list[str]) -> None:
    """See the module."""
    if len(arguments) not in (1, 2):
        sys.exit("usage: python -m connector.studies.page_pictures FOLDER [REPORT]")
    if len(arguments) == 2:
        print(take_report_picture(Path(arguments[1]), Path(arguments[0])))
        return
    with _serving(load_settings(options=_OPTIONS)) as url:
        for path in take_pictures(url, Path(arguments[0])):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
