"""Documents and results."""

from __future__ import annotations

import json

import pytest

from connector.documents import RankedHit, RerankResult, document_text, has_text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "A title\nSome text\none two"),
        (("text", "title"), "Some text\nA title"),
        (("tags",), "one two"),
        (("author.name",), "Ada"),
        (("parts.text",), "first third"),
        (("dotted.key",), "literal"),
        (("year",), "1999"),
        (("nothing", "none", "text"), "Some text"),
        (("author",), "Ada 36"),
    ],
)
def test_chosen_fields_are_joined_by_a_newline(names: tuple[str, ...], text: str) -> None:
    fields = {
        "title": "A title",
        "text": "Some text",
        "tags": ["one", "two"],
        "author": {"name": "Ada", "age": 36},
        "parts": [{"text": "first"}, {"note": "second"}, {"text": "third"}],
        "dotted.key": "literal",
        "year": 1999,
        "none": None,
    }
    if not names:
        fields = {key: fields[key] for key in ("title", "text", "year", "tags")}
    assert document_text(fields, names) == text


def test_a_result_as_scripts_rely_on_it() -> None:
    hit = RankedHit(3, 1.5, 0.25, 9.0, 2, False, 1, (0, 4), "d3")
    result = RerankResult((hit,), True, None, ((17, 4),), {"total": 1.23456})
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value["hits"][0] == {
        "id": "d3",
        "index": 3,
        "score": 1.5,
        "head_score": 0.25,
        "first_stage_score": 9.0,
        "first_stage_rank": 2,
        "truncated": False,
        "passages": 1,
        "passage": [0, 4],
    }
    assert (value["reranked"], value["reason"], value["heads"]) == (True, None, [[17, 4]])
    assert value["timings_ms"] == {"total": 1.235}
    assert "id" not in RankedHit(0, 1.0).to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\u200b\u2060",
        "\ufeff",
        "\0\x07",
        "\ud83d",
        "\ufffd",
        "\u00ad",
        "\u3164",
        "\u2800",
        "\ufe0f",
        "\u2028",
    ],
)
def test_what_does_not_show_is_no_text(text: str) -> None:
    assert not has_text(text)
    assert has_text(f"{text}a{text}")


@pytest.mark.parametrize("text", ["a", "é", "e\u0301", "猫", "ש", "😀", "\U0001f3f3\ufe0f", "!", "0", "\ue000"])
def test_what_shows_is_text(text: str) -> None:
    assert has_text(text)


def test_what_is_nested_beyond_measure_costs_no_document_its_text() -> None:
    deep: object = "deep"
    for _ in range(5_000):
        deep = {"inner": [deep]}
    assert document_text({"text": "cats", "more": deep}) == "cats"
    assert document_text({"text": ["cats", deep]}, ("text", "more")) == "cats"
    flat: object = "flat"
    for _ in range(30):
        flat = {"inner": [flat]}
    assert document_text({"more": flat}) == "flat"


def test_lists_and_objects_with_text_are_read_where_no_field_is_named() -> None:
    fields = {
        "title": "Notes",
        "paragraphs": ["Run git revert.", "Or reset."],
        "vector": [0.1, 0.2],
        "by": {"name": "Ann"},
    }
    assert document_text(fields) == "Notes\nRun git revert. Or reset.\nAnn"
    assert document_text({"n": 5, "tags": [], "empty": {}}) == ""
