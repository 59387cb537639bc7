"""The docs are for a reader in a hurry: short sentences, and module paths that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from connector.settings import settings_table

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "deploy/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
MEAN_WORDS, MOST_WORDS = 16, 35


def sentences(markdown: str) -> Iterator[str]:
    """Those outside of code, tables and headings; a piece of code in a sentence counts as one word."""
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "\n\n", markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\s*[|#<].*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "\n\n", text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n", text):
        words = re.sub(r"`[^`]*`", "code", " ".join(block.split()))
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", words).replace("*", "")
        yield from (found for found in re.split(r"(?<=[.!?])[)\"']?\s+(?=[A-Z0-9(\"'c])", words) if found)


def length(sentence: str) -> int:
    """In words: what holds a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def test_sentences_are_found_and_counted() -> None:
    markdown = (
        "# A title\n\nOne two\nthree `a b c`. Five [six seven](x.md).\n\n| a | b |\n|---|---|\n| c. | d |\n"
        "\n```sh\nrun it. now\n```\n- Item one.\n- Item two, 2.5 of it\n"
    )
    assert [length(sentence) for sentence in sentences(markdown)] == [4, 3, 2, 5]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    found = {sentence: length(sentence) for sentence in sentences((ROOT / page).read_text(encoding="utf-8"))}
    long = {sentence: words for sentence, words in found.items() if words > MOST_WORDS}
    assert not long, f"{page}: split these, or make a table of them"
    if found:
        assert fmean(found.values()) <= MEAN_WORDS, f"{page}: {sorted(found, key=found.__getitem__)[-5:]}"


def test_settings_are_described_in_short_sentences() -> None:
    assert {
        setting.key: setting.help
        for setting in settings_table()
        if any(length(sentence) > MOST_WORDS for sentence in sentences(setting.help))
    } == {}


@pytest.mark.parametrize("page", [*PAGES, "config.yaml"])
def test_modules_and_files_that_a_page_names_exist(page: str) -> None:
    # Targets of links are checked with the links.
    text = re.sub(r"\]\([^)]*\)", "]", (ROOT / page).read_text(encoding="utf-8"))
    modules = {name.replace(".", "/") for name in re.findall(r"-m ((?:connector|router_export)[\w.]*\w)", text)}
    missing = {name for name in modules if not (ROOT / f"{name}.py").is_file() and not (ROOT / name).is_dir()}
    # What commands in a code block write need not be there.
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for folders, searched in (("connector|router_export|tests|deploy|examples", text), ("docs", prose)):
        named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*\w)", searched)
        missing |= {name for name in named if not (ROOT / name).exists()}
    assert missing == set()
