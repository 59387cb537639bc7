from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.service.gateway.parsing import query_string
from connector.service.gateway.parsing.query_string import words_of_query_string, words_of_simple_query_string
from connector.service.gateway.parsing.query_text import query_text

_MATCH = {"match": {"title": "red shoes"}}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (_MATCH, "red shoes"),
        ({"match": {"title": {"query": "red shoes", "operator": "and"}}}, "red shoes"),
        ({"match_phrase": {"title": "red shoes"}}, "red shoes"),
        ({"multi_match": {"query": "red shoes", "fields": ["a^2", "b"]}}, "red shoes"),
        ({"combined_fields": {"query": "red shoes", "fields": ["a"]}}, "red shoes"),
        ({"query_string": {"query": "title:(red AND shoes) -blue"}}, "red shoes"),
        ({"simple_query_string": {"query": '"red shoes" | boots* -blue'}}, "red shoes boots"),
        ({"neural": {"vector": {"query_text": "red shoes", "model_id": "m", "k": 5}}}, "red shoes"),
        ({"sparse_vector": {"field": "v", "inference_id": "m", "query": "red shoes"}}, "red shoes"),
        ({"agentic": {"query_text": "red shoes", "query_fields": ["title"], "memory_id": "m"}}, "red shoes"),
        ({"bool": {"must": _MATCH}}, "red shoes"),
        ({"bool": {"must": [_MATCH], "should": [{"match": {"body": "red shoes"}}]}}, "red shoes"),
        ({"bool": {"should": [_MATCH, {"match": {"brand": "acme"}}]}}, "red shoes acme"),
        ({"bool": {"filter": [_MATCH]}}, None),
        ({"bool": {"must": [{"match_all": {}}], "must_not": [_MATCH]}}, None),
        ({"hybrid": {"queries": [_MATCH, {"neural": {"v": {"query_text": "red shoes"}}}]}}, "red shoes"),
        ({"function_score": {"query": {"bool": {"must": _MATCH}}}}, "red shoes"),
        ({"nested": {"path": "p", "query": _MATCH}}, "red shoes"),
        ({"dis_max": {"queries": [_MATCH]}}, "red shoes"),
        ({"boosting": {"positive": _MATCH, "negative": {"match": {"t": "blue"}}}}, "red shoes"),
        ({"term": {"brand": "acme"}}, None),
        ({"match": {"year": 2020}}, None),
        ({"match": {"title": " \n "}}, None),
        ({"match_all": {}}, None),
        ("red shoes", None),
        ({"bool": ["red"]}, None),
    ],
)
def test_the_words_of_clauses_that_score(query: Any, text: str | None) -> None:
    assert query_text({"query": query}) == text


def test_retrievers_and_vector_searches_of_elasticsearch() -> None:
    standard = {"standard": {"query": _MATCH}}
    assert query_text({"retriever": {"rrf": {"retrievers": [standard, {"knn": {"field": "v"}}]}}}) == "red shoes"
    assert (
        query_text({"retriever": {"linear": {"retrievers": [{"retriever": standard, "weight": 2}]}}}) == "red shoes"
    )
    assert query_text({"knn": {"query_vector_builder": {"text_embedding": {"model_text": "red"}}}}) == "red"


def test_what_ext_says_counts_more_than_the_url_and_that_more_than_the_body() -> None:
    told = {"rerank": {"query_context": {"query_text": "boots"}}}
    assert query_text({"query": _MATCH, "ext": told}, "hats") == "boots"
    assert query_text({"query": _MATCH}, "title:hats") == "hats"
    path = {"rerank": {"query_context": {"query_text_path": "query.match.title"}}}
    assert query_text({"query": _MATCH, "ext": path}) == "red shoes"
    assert query_text({"query": _MATCH, "ext": {"rerank": 1}}) == "red shoes"


def test_half_a_character_is_no_character() -> None:
    assert query_text({"query": {"match": {"t": "cats \ud83d"}}}) == "cats \ufffd"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("cats", "cats"),
        ("*", ""),
        ("*:*", ""),
        ("a NOT b c", "a c"),
        ("NOT (a b) c", "c"),
        ("-(a (b) d) c", "c"),
        ("age:[1 TO 10] cat", "cat"),
        ("age:>10 cat", "cat"),
        ('foo* -"song birds" x^2 y~1', "foo x y"),
        ("/joh?n(ath[oa]n)/ x", "x"),
        ("wi-fi don't and/or", "wi-fi don't and/or"),
        ("\\(1\\+1\\)", "(1+1)"),
        ('"unclosed phrase', "unclosed phrase"),
        ("how long do cats sleep?", "how long do cats sleep?"),
        ("-title:(x y) z", "z"),
        ("", ""),
    ],
)
def test_signs_of_the_query_string_are_no_words(written: str, words: str) -> None:
    assert words_of_query_string(written) == words


def test_the_simple_syntax_has_no_fields_and_no_words_as_operators() -> None:
    assert words_of_simple_query_string("title:cats AND (dogs | -birds)") == "title:cats AND dogs"


@given(st.text(alphabet='ab "()[]{}:/\\*?~^+-!|&<>=\n\ud800TO', max_size=40))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_query_string_is_read(text: str) -> None:
    for words in (words_of_query_string(text), words_of_simple_query_string(text)):
        assert words == " ".join(words.split())


@pytest.mark.parametrize("piece", ["[TO ", "/x ", '"', "a\\", "((-", "a:", "[[TO]"])
def test_long_query_strings_take_no_more_work_than_their_beginning(piece: str) -> None:
    some, many = (lines_run(partial(words_of_query_string, piece * count)) for count in (5_000, 500_000))
    assert 0 < many == some


def lines_run(work: Callable[[], object]) -> int:
    """Lines of the parser that are run; the same work takes the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != query_string.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["bool", "must", "should", "match", "query", "nested", "knn", "hybrid", "queries", "rrf", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["query", "retriever", "knn", "ext", "sub_searches"]), _json))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_body_makes_it_stumble(body: dict[str, Any]) -> None:
    text = query_text(body)
    assert text is None or text.strip()
