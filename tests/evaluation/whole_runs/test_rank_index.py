"""A whole index ranked: the best of all documents, continued where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.documents import Document
from connector.errors import DataError, SettingsError
from connector.evaluation.whole_runs.rank_index import rank_index
from connector.reranking.reranker import Reranker

QUERIES = {"q1": "how long do cats sleep", "q2": "baking bread"}


def documents(cats: list[str]) -> list[Document]:
    empty = Document("empty", {"text": " "})
    return [empty, *(Document(f"d{at}", {"text": text}) for at, text in enumerate(cats * 3))]


def ranked(reranker: Reranker, own: list[Document], out: Path, **more: str) -> Iterator[Document]:
    given = {"tag": "rh", "made_by": "rh-solo", **more}
    return rank_index(own, QUERIES, lambda: reranker, out, fields=(), keep=4, **given)


def test_the_best_of_all_documents_come_first(reranker: Reranker, cats: list[str], tmp_path: Path) -> None:
    own, out = documents(cats), tmp_path / "out.trec"
    assert len(list(ranked(reranker, own, out))) == 15
    names = [line.split()[2] for line in out.read_text().splitlines()]
    # Equal texts have equal scores, and come by their ids; in whatever order the index gives them.
    assert names[:3] == ["d12", "d2", "d7"] and set(names[4:7]) == {"d4", "d9", "d14"}
    first = out.read_bytes()
    list(ranked(reranker, own[::-1], out))
    assert out.read_bytes() == first and not list(tmp_path.glob("*.part"))


def test_what_was_stopped_is_continued(reranker: Reranker, cats: list[str], tmp_path: Path) -> None:
    own, whole, out = documents(cats), tmp_path / "whole.trec", tmp_path / "out.trec"
    list(ranked(reranker, own, whole))
    begun = ranked(reranker, own, out)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    part = tmp_path / "out.trec.part"
    assert part.read_text().count("\n") == 9 and not out.exists()
    part.write_text(part.read_text() + '["d9", "half a li')
    with pytest.raises(DataError, match="was begun with other queries or settings; give those"):
        list(ranked(reranker, own, out, made_by="rh-other-model"))
    assert len(list(ranked(reranker, own, out))) == 15
    assert out.read_bytes() == whole.read_bytes()


def test_a_document_that_is_gone_meanwhile_is_not_written(
    reranker: Reranker, cats: list[str], tmp_path: Path
) -> None:
    own, out = documents(cats), tmp_path / "out.trec"
    begun = ranked(reranker, own, out)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    list(ranked(reranker, [document for document in own if document.id != "d2"], out))
    assert " d2 " not in out.read_text() and " d7 " in out.read_text()


def test_scores_of_one_list_only_are_refused(late_reranker: Reranker, cats: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set backbone.layout to solo"):
        list(ranked(late_reranker, documents(cats), tmp_path / "out.trec"))
