"""The demo's questions: drawn by the rule of their file, and what is said of what became of them."""

from __future__ import annotations

import hashlib
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from connector.cli.demo_questions import Found, demo_questions, examples, summary_of
from connector.engines.standard_library import standard_library_documents

# Functions that one of Python 3.11 to 3.13 lacks: they could not be drawn.
_NOT_IN_ALL = {"os.path.splitroot", "re.error", "socket.inet_aton"}


def test_at_least_thirty_and_each_once() -> None:
    questions = demo_questions()
    assert len(questions) >= 30 and len(set(questions.values())) == len(questions)
    for document, question in questions.items():
        assert document.rpartition(".")[2] not in question.lower().split(), "a question names its answer"


@pytest.mark.slow
def test_the_rule_draws_these_documents() -> None:
    record: dict[str, Any] = tomllib.loads(files("connector.cli").joinpath("demo_questions.toml").read_text())
    drawn: dict[str, str] = {}
    for document in standard_library_documents():
        module, _, name = document.id.rpartition(".")
        is_function = name.islower() and "(" in str(document.fields["title"])
        if module in record["modules"] and is_function and document.id not in _NOT_IN_ALL:
            drawn[module] = min(drawn.get(module, document.id), document.id, key=_hash)
    assert sorted(drawn.values()) == sorted(record["questions"])


def _hash(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


FOUND = [
    Found("a", "m.a", 2, 1),
    Found("b", "m.b", 1, 3),
    Found("c", "m.c", None, None),
    Found("d", "m.d", 12, 11),
    Found("e", "m.e", 5, 1),
]


def test_the_summary_counts_all_questions() -> None:
    summary = summary_of(FOUND, 20)
    assert (summary.questions, summary.found, summary.won, summary.lost, summary.equal) == (5, 4, 2, 1, 2)
    assert summary.first == (1, 2)
    assert summary.mrr == (pytest.approx((1 / 2 + 1 + 1 / 5) / 5), pytest.approx((1 + 1 / 3 + 1) / 5))
    assert summary.ndcg[1] == pytest.approx((1 + 1 / 2 + 1) / 5)
    assert summary.answer == "no difference" and summary.lines[0].startswith("No difference to the first stage")
    assert (
        "Of 5 questions 2 won, 1 lost, 2 equal. The first hit is right for 2, without reranking for 1."
        in (summary.lines[1])
    )
    assert summary.lines[2].startswith("For 1 the right document is not among the 20 hits")


def test_examples_are_the_best_the_worst_and_the_middle() -> None:
    chosen = examples(FOUND)
    assert [found.question for found in chosen.values()] == ["e", "b", "c"]
    assert list(examples([Found("a", "m.a", 1, 1)])) == ["the middle of all others"]
    only_won = examples([Found("a", "m.a", 2, 1), Found("b", "m.b", 1, 1)])
    assert list(only_won) == ["the greatest gain", "the middle of all others"]
