"""What the figures of instructions in documents are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.campaign.injections import INSTRUCTIONS, injections


def test_the_instructions_are_a_hundred_different_ones() -> None:
    assert len(set(INSTRUCTIONS)) == 100 and all(text.strip() == text != "" for text in INSTRUCTIONS)


@pytest.mark.slow
def test_a_few_instructions_are_measured(tmp_path: Path) -> None:
    texts = {"corpus.jsonl": [f"cat number {at} sleeps" for at in range(120)], "queries.jsonl": ["cats sleep"] * 5}
    for name, lines in texts.items():
        made = [json.dumps({"_id": str(at), "text": text}) for at, text in enumerate(lines)]
        (tmp_path / name).write_text("\n".join(made))
    judged = [f"{query}\t{at}\t{int(at == 7)}" for query in range(5) for at in range(120)]
    (tmp_path / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    (row,) = injections(tmp_path, 2)
    assert (row.tried, row.survived) == (10, 10) and "mean places gained of 100" in row.note
