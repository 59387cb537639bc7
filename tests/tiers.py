"""Tiers: the markers that tell a quick run what to leave out, given to tests by the fixtures that they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from tests.nodes.fixtures import NODES

__all__ = ["MARKERS", "give_markers", "nodes_of", "refuse_unmarked"]

MARKERS: Mapping[str, str] = {
    "nodes": "starts a real OpenSearch or Elasticsearch",
    "export": "traces a backbone into ONNX graphs",
    "bench": "measures: runs the bench command, or times new processes that load the LLM",
    "slow": "takes seconds: trains, starts processes, or loads the LLM anew",
}
"""What each marker says of its tests. The quick run leaves all of them out."""
_BY_FIXTURE: Mapping[str, frozenset[str]] = {
    "nodes": frozenset(NODES),
    "export": frozenset({"tiny_exports", "smollm2_export"}),
}


def give_markers(items: Iterable[pytest.Item]) -> None:
    """Mark every test that uses a fixture of a tier, directly, through other fixtures, or by its name as parameter.

    A test whose module imports ``export_backbone`` counts as one that exports.
    """
    for item in items:
        used = {*getattr(item, "fixturenames", ()), *_parameters(item)}
        exports = hasattr(getattr(item, "module", None), "export_backbone")
        for marker, fixtures in _BY_FIXTURE.items():
            if used & fixtures or (marker == "export" and exports):
                item.add_marker(marker)
        # Processes that share the tests: each node starts once, and what a module's fixtures load is loaded once.
        alone = item.get_closest_marker("nodes")
        item.add_marker(pytest.mark.xdist_group("nodes" if alone else item.nodeid.partition("::")[0]))


def nodes_of(items: Iterable[pytest.Item]) -> list[str]:
    """Those of ``NODES`` that the tests ask for, in the order of their first use."""
    found: dict[str, None] = {}
    for item in items:
        if item.get_closest_marker("nodes"):
            # Some name the kind of engine.
            asked = {*getattr(item, "fixturenames", ()), *(f"{value}_node" for value in _parameters(item))}
            asked.update(_parameters(item))
            found.update(dict.fromkeys(name for name in NODES if name in asked))
    return list(found)


def refuse_unmarked(item: pytest.Item | None, marker: str) -> None:
    """Fail a test that came to a fixture of a tier by ways that ``give_markers`` does not see."""
    if item is not None and not item.get_closest_marker(marker):
        pytest.fail(f"{item.nodeid} {MARKERS[marker]}: mark it with pytest.mark.{marker}", pytrace=False)


def _parameters(item: pytest.Item) -> Iterable[str]:
    callspec = getattr(item, "callspec", None)
    return [] if callspec is None else [value for value in callspec.params.values() if isinstance(value, str)]
