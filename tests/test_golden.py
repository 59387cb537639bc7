"""Golden scores of the real small LLM: a change of prompt, layout, attention or read-out must show here.

To write them anew after a change that is meant: ``python -m tests.test_golden``.
"""

from __future__ import annotations

import json
from functools import reduce
from itertools import product
from operator import or_
from pathlib import Path

import numpy as np
import pytest

from connector.backbone.open_reader import open_reader
from connector.heads.head_sets import HeadSet
from connector.heads.likelihood import LikelihoodSignal
from connector.heads.signals import signal_scores
from connector.reranking.reranker import Reranker
from connector.routing.bundle import Bundle, shipped_bundle
from connector.sections import LAYOUTS, READOUTS, Layout
from connector.settings import load_settings

GOLDEN = Path(__file__).parent / "golden_scores.json"
HEADS = HeadSet(((18, 6), (17, 4), (2, 4)), 1.0)
QUERY = "how long do cats sleep"
DOCUMENTS = [
    "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
    "A cat's whiskers are about as wide as its body and help it to judge gaps.",
    "Rust is a systems programming language that guarantees memory safety.",
    "Schlaf: Katzen schlafen bis zu 16 Stunden am Tag. 😀",
    "cats",
]


def scores(layout: Layout) -> dict[str, list[float]]:
    options = {"backbone.layout": layout, "router.mode": "all", "backbone.dtype": "float32"}
    reader = open_reader(load_settings("/dev/null", options, environment={}))
    found = {}
    if layout == "solo":
        shipped = shipped_bundle("smollm2-135m", "solo")
        assert shipped is not None
        signals = [LikelihoodSignal("sum"), *Bundle.load(shipped).signals]
        reading = reader.read(QUERY, DOCUMENTS, reduce(or_, (signal.needs for signal in signals)))
        values = signal_scores(signals, reading)[:, [place for (place,) in reading.documents]]
        return {name: own.round(5).tolist() for name, own in zip(("likelihood", "probe"), values, strict=True)}
    for readout in READOUTS:
        result = Reranker(reader, HEADS, readout=readout).rerank(QUERY, DOCUMENTS)
        by_index = {hit.index: hit.head_score or 0.0 for hit in result.hits}
        found[str(readout)] = [round(by_index[at], 6) for at in range(len(DOCUMENTS))]
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_as_they_were(layout: Layout) -> None:
    golden = json.loads(GOLDEN.read_text())[layout]
    found = scores(layout)
    assert found.keys() == golden.keys()
    for name, expected in golden.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("layout", "readout"), [*product(("late", "joint"), READOUTS), ("solo", "likelihood"), ("solo", "probe")]
)
def test_what_is_written_is_what_a_reader_would_say(layout: Layout, readout: str) -> None:
    """A file written anew by a broken model would make every comparison with it hold."""
    written = json.loads(GOLDEN.read_text())[layout][readout]
    assert len(written) == len(DOCUMENTS)
    answer, on_cats, on_rust, _, _ = written
    assert answer == max(written) and on_cats > on_rust


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({layout: scores(layout) for layout in LAYOUTS}, indent=1) + "\n")
