"""What fewer bits cost, on a collection of four documents, with the real LLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.evaluation.collections import load_collection
from connector.evaluation.first_stage import first_stage
from connector.evaluation.runs import RunEntry
from connector.sections import Settings
from connector.studies.storage_error import FORMATS, LAYOUTS, measure, table
from tests.evaluation.folders import DOCUMENTS, write_collection


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_formats_are_compared_on_the_same_windows(settings: Settings, tmp_path: Path, layout: str) -> None:
    collection = load_collection(write_collection(tmp_path))
    run = {query: [RunEntry(d["_id"], 9.0 - at) for at, d in enumerate(DOCUMENTS)] for query in collection.queries}
    windows = first_stage(collection, 20, run=run)
    chosen = settings.backbone.model_copy(update={"layout": layout})
    found = measure(settings.model_copy(update={"backbone": chosen}), collection, windows)
    assert [row.format for row in found] == list(FORMATS)
    errors = [row.score_error for row in found]
    assert errors[0] == 0 and errors == sorted(errors) and errors[1] > 0
    sizes = [row.bytes_per_token for row in found]
    assert sizes[1] == sizes[0] / 2 and sizes == sorted(sizes, reverse=True)
    assert all(0 < row.ndcg <= 1 and 0 < row.fused <= 1 for row in found)
    assert len(table(found).splitlines()) == len(found) + 2
