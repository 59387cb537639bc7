"""Documents of one length from real texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.backbone.prompt.tokenizer import Tokenizer
from connector.benchmark.texts import read_texts
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import DataError


@pytest.fixture(scope="module")
def tokenizer(smollm2: Checkpoint) -> Tokenizer:
    return Tokenizer.from_folder(smollm2.path)


@pytest.mark.slow
def test_the_standard_library_gives_distinct_documents_of_one_length(tokenizer: Tokenizer) -> None:
    texts = read_texts(None, tokenizer, 30, 40)
    assert len(set(texts.documents)) == 30
    assert all(abs(len(each.ids) - 40) <= 3 for each in tokenizer.encode_user(texts.documents))
    assert len(set(texts.queries)) == len(texts.queries) > 100
    assert texts.query(0) != texts.query(1)
    assert texts == read_texts(None, tokenizer, 30, 40)


def test_short_documents_of_a_collection_are_put_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = [json.dumps({"_id": str(at), "title": "", "text": f"sentence number {at} is short"}) for at in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "which number"}\n')
    texts = read_texts(tmp_path, tokenizer, 3, 20)
    assert texts.queries == ("which number",)
    assert texts.documents[0].startswith("sentence number 0 is short\n\nsentence number 1")
    with pytest.raises(DataError, match=r"has text for \d+ documents of 20 tokens, 100 are needed"):
        read_texts(tmp_path, tokenizer, 100, 20)
