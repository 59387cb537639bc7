"""What a probe's depth is worth and costs."""

from __future__ import annotations

import json
from pathlib import Path

from connector.benchmark.texts import Texts
from connector.reranking.reranker import Reranker
from connector.studies.depths import depths_chart, label, measure


def test_every_depth_has_its_price(reranker: Reranker, cats: list[str]) -> None:
    reader = reranker.reader.with_runtime(reranker.reader.runtime)
    texts = Texts("cats", ("how long do cats sleep", "what do cats eat", "why do cats purr"), tuple(cats), 10)
    points = [{"layers": [2]}, {"layers": [1, 4]}, {"layers": [1, 4], "likelihood": True}]
    priced = measure(reader, texts, points, rounds=2)
    assert [label(point) for point in priced] == ["2", "1 + 4", "1 + 4, likelihood"]
    sizes = [point["bytes"] for point in priced]
    assert sizes == sorted(sizes) and 0 < sizes[0] < sizes[1] < sizes[2]
    assert all(point["cached_ms"] > 0 and point["new_ms"] > 0 for point in priced)


def test_the_committed_figures_make_the_committed_picture(repository: Path) -> None:
    folder = repository / "docs" / "engineering"
    study = json.loads((folder / "depths.json").read_text(encoding="utf-8"))
    drawn = depths_chart(study)
    assert drawn == (folder / "depths.svg").read_text(encoding="utf-8")
    assert all(f">{label(point)}: " in drawn for point in study["points"]) and drawn.count("(in use)") == 1
