"""What tests in the real browser share."""

from __future__ import annotations

from typing import Any

import pytest

from connector.studies.page_pictures import find_browser

__all__ = ["DESKTOP", "NARROW", "NEEDS_BROWSER", "PHONE", "broken_words"]

NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None,
        reason="chromium or chromedriver is missing; on Debian: apt-get install chromium chromium-driver",
    ),
]
DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (360, 740)

# A word has more than one box where a line ends inside it.
_BROKEN = r"""
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const node = texts.currentNode;
  if (!node.parentElement.checkVisibility() || node.parentElement.closest("svg, .hidden")) continue;
  for (const word of node.data.matchAll(/[\p{L}\p{N}_.=]+/gu)) {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    if (range.getClientRects().length > 1) found.push(word[0]);
  }
}
return found;
"""


def broken_words(driver: Any) -> list[str]:
    """Words that are seen and begin on one line and end on another."""
    found: list[str] = driver.execute_script(_BROKEN)
    return found
