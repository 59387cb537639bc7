"""What tests in the real browser share."""

from __future__ import annotations

import pytest

from connector.studies.page_pictures import find_browser

__all__ = ["DESKTOP", "NEEDS_BROWSER", "PHONE"]

NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None,
        reason="chromium or chromedriver is missing; on Debian: apt-get install chromium chromium-driver",
    ),
]
DESKTOP, PHONE = (1280, 900), (390, 844)
