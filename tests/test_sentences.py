"""Where sentences end, and which of them a passage shows."""

from __future__ import annotations

import random
import re

import pytest

from connector.sentences import sentences, shown_sentences

CASES = {
    "Dr. Smith saw a cat. It slept, e.g. at No. 5. Pi is 3.14 exactly.": [
        "Dr. Smith saw a cat.",
        "It slept, e.g. at No. 5.",
        "Pi is 3.14 exactly.",
    ],
    "Wait... what? Yes!! (Really.) Ok": ["Wait...", "what?", "Yes!!", "(Really.)", "Ok"],
    "“So it is.” He left.": ["“So it is.”", "He left."],
    "A title\n\n- one\r\n- two": ["A title", "- one", "- two"],
    "猫は眠る。犬は吠える。「はい。」と言う": ["猫は眠る。", "犬は吠える。", "「はい。」", "と言う"],
    "Кошки спят. Собаки лают.": ["Кошки спят.", "Собаки лают."],
    "1. Wash it.\n2. Dry it in 5. Then rest.": ["1. Wash it.", "2. Dry it in 5.", "Then rest."],
    "no end": ["no end"],
    " \n ": [],
    "": [],
}


@pytest.mark.parametrize("text", CASES)
def test_sentences(text: str) -> None:
    assert [text[start:end] for start, end in sentences(text)] == CASES[text]


def test_every_text_is_cut_into_parts_that_leave_out_blanks_only() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(draw.choices('ab C.!?…。」)"\n\r\t 🍎é5', k=draw.randrange(30)))
        found = list(sentences(text))
        assert "".join("".join(text[start:end] for start, end in found).split()) == "".join(text.split())
        assert all(text[start:end].strip() == text[start:end] != "" for start, end in found)
        assert all(left[1] <= right[0] for left, right in zip(found, found[1:], strict=False))


TEXT = "Bridges are made of steel. Cats sleep twelve hours. Some sleep sixteen. Bread is baked."


def shown(text: str, looks: dict[str, float], passage: tuple[int, int] | None = None) -> list[tuple[int, str]]:
    """What is shown where the words of a passage were looked at so much, and all others not at all."""
    start, end = passage or (0, len(text))
    tokens = [
        (found.start(), found.end(), looks.get(found[0].strip(), 0.0))
        for found in re.finditer(r"\s*[\w-]+|\s*[^\w\s]", text)
        if start <= found.start() and found.end() <= end
    ]
    return [(at, text[first:last]) for at, (first, last) in shown_sentences(text, tokens)]


def test_the_sentence_looked_at_most_is_shown_and_others_with_half_as_much() -> None:
    assert shown(TEXT, {"Cats": 5, "sixteen": 1, "steel": 2}) == [(1, "Cats sleep twelve hours.")]
    both = [(1, "Cats sleep twelve hours."), (2, "Some sleep sixteen.")]
    assert shown(TEXT, {"Cats": 2, "hours": 1, "Some": 1, "sixteen": 1}) == both
    # The blank before a word, and the full stop behind it, are its sentence's.
    assert shown(TEXT, {"Some": 1}) == [(2, "Some sleep sixteen.")]
    assert shown("One. Two! Three", {"!": 1}) == [(1, "Two!")]


def test_only_the_passage_counts() -> None:
    passage = TEXT.index("Some"), TEXT.index(" Bread")
    assert shown(TEXT, {"Cats": 9, "sleep": 1}, passage) == [(2, "Some sleep sixteen.")]


def test_where_nothing_was_looked_at_nothing_is_shown() -> None:
    assert shown(TEXT, {}) == shown_sentences(TEXT, ()) == []


def test_of_a_text_without_sentences_the_passage_is_shown_in_whole_words() -> None:
    text = "One. " + " ".join(f"word{at}" for at in range(200))
    start, end = text.index("word50"), text.index("word60")
    # A token may be a part of a word.
    tokens = [(start + 2, start + 6, 1.0), (end - 1, end + 3, 1.0)]
    ((place, (first, last)),) = shown_sentences(text, tokens)
    assert (place, text[first:last]) == (0, text[start : text.index(" word61")])
    ((_, span),) = shown_sentences("x" * 5000, [(2000, 2100, 1.0)])
    assert span == (1960, 2140), "nor is a word without end"
