"""Queries made of documents: what was asked is not in what is searched."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.documents import Document, document_text
from connector.training.made_queries import KINDS, is_copy, make_queries, without_part

BODY = (
    "Cats are small animals that live with people. Adult cats sleep between twelve and sixteen hours a day in warm "
    "places. Kittens sleep even longer than adult cats do. A cat that hunts at night sleeps through the day."
)
CODE = 'def total(values):\n    """Sum up all the values of a list.\n\n    More.\n    """\n    result = 0\n' + (
    "    for value in values:\n        result += value\n    return result  # the sum of all values in the list"
)
MARKDOWN = (
    "# Cats\n\nCats are animals that sleep and hunt in the night and the day.\n\n"
    "## How cats sleep\n\nMost cats rest in warm places and sleep for many hours of the day and the night.\n"
)


def documents(count: int = 30) -> list[Document]:
    return [
        Document(f"d{at:02}", {"title": f"Number {at} of the sleeping animals", "text": f"{BODY} It is number {at}."})
        for at in range(count)
    ]


def test_kinds_take_turns_and_each_document_is_used_once() -> None:
    made = make_queries(documents(), 9, seed=1)
    assert len(made) == 9 and len({query.document.id for query in made}) == 9
    assert {query.kind for query in made} == {"title", "sentence", "words"}
    assert make_queries(documents(), 9, seed=1) == made
    assert make_queries(documents(), 5, seed=1) == made[:5]
    assert make_queries(reversed(documents()), 9, seed=1) == made
    assert make_queries(documents(), 9, seed=2) != made


def test_what_was_asked_is_taken_out() -> None:
    for query in make_queries(documents(), 30):
        assert not is_copy(query.query, document_text(query.document.fields))
    title = next(query for query in make_queries(documents(), 30, kinds=["title"]))
    assert "title" not in title.document.fields and title.query.startswith("Number")


def test_docstrings_ask_for_their_code() -> None:
    (made,) = make_queries([Document("d", {"text": CODE})], 5)
    assert (made.kind, made.query) == ("docstring", "Sum up all the values of a list")
    assert '"""' not in str(made.document.fields["text"]) and "return result" in str(made.document.fields["text"])
    assert without_part(Document("d", {"text": CODE}), "docstring") == made.document


def test_headings_ask_for_their_section() -> None:
    found = [make_queries([Document("d", {"text": MARKDOWN})], 1, kinds=["heading"], seed=seed) for seed in range(8)]
    sections = {made[0].query: str(made[0].document.fields["text"]) for made in found if made}
    assert sections["How cats sleep"].startswith("Most cats rest")
    assert "Cats are animals" not in sections["How cats sleep"]


def test_titles_that_several_documents_share_ask_for_none() -> None:
    shared = [Document(f"d{at}", {"title": "The same title", "text": BODY}) for at in range(3)]
    assert make_queries(shared, 3, kinds=["title"]) == []


def test_a_title_that_stands_in_its_text_is_no_question() -> None:
    copy = Document("d", {"title": "Adult cats sleep between twelve and sixteen hours", "text": BODY})
    assert make_queries([copy], 1, kinds=["title"]) == []
    assert is_copy("Adult cats sleep between twelve and sixteen hours", BODY)
    assert not is_copy("how long do cats sleep", BODY)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=200)), max_size=6), st.integers(0, 99))
def test_any_text_whatever_gives_queries_or_none(texts: list[tuple[str, str]], seed: int) -> None:
    given_documents = [Document(str(at), {"title": title, "text": text}) for at, (title, text) in enumerate(texts)]
    made = make_queries(given_documents, 4, seed=seed)
    assert len(made) <= min(4, len(texts))
    for query in made:
        assert query.query.strip() and query.kind in KINDS
        assert not is_copy(query.query, document_text(query.document.fields))
