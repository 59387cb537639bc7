"""Grafana's dashboard: its queries parse, all metrics are on it, labels and their values are those of the service."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import promql_parser
import pytest

from tests.deploy.conftest import DEPLOY
from tests.deploy.test_everything import LABELS, metric_samples
from tests.deploy.test_prometheus import rules, selectors

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "prometheus/dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus adds to every sample of a target.
_OF_THE_SCRAPE = {"job", "instance"}


def expression_of(target: dict[str, Any]) -> str:
    """As Grafana would send it."""
    return str(target["expr"]).replace("$__rate_interval", "1m")


TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=[f"{title}-{target['refId']}" for title, target in TARGETS]
)
def test_metrics_and_labels_of_a_query_exist(title: str, target: dict[str, Any]) -> None:
    samples = metric_samples()
    expression = expression_of(target)
    found = list(selectors(expression))
    assert found
    for selector in found:
        assert selector.name is not None and selector.name in samples
        labels = samples[selector.name] | _OF_THE_SCRAPE
        matchers = {str(matcher.name): str(matcher.value) for matcher in selector.matchers.matchers}
        assert set(matchers) <= labels
        assert (matchers["job"], matchers["instance"]) == ("$job", "$instance")
        for label in set(matchers) & set(LABELS):
            assert matchers[label] in LABELS[label]
        grouped = {name for group in re.findall(r"by \(([^)]+)\)", expression) for name in group.split(", ")}
        assert grouped <= labels
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        # A label that was summed away would leave an empty legend.
        assert shown == grouped - {"le"} if grouped else shown <= labels


def test_rates_are_of_counters_and_of_nothing_else() -> None:
    for _, target in TARGETS:
        expression = expression_of(target)
        rated = set(re.findall(r"rate\((\w+)", expression))
        names = {str(selector.name) for selector in selectors(expression)}
        counters = {name for name in names if re.search(r"_(total|bucket)$", name)}
        assert rated == counters


def test_every_metric_is_on_it() -> None:
    shown = {selector.name for _, target in TARGETS for selector in selectors(expression_of(target))}
    # A histogram's parts; when a counter began.
    missing = {
        name
        for name in metric_samples()
        if name.startswith("rh_") and not re.search(r"_(created|count|sum)$", name) and name not in shown
    }
    assert missing == set()


def test_what_is_no_request_of_a_search_is_left_out_as_in_the_alert() -> None:
    (alert,) = [rule["expr"] for rule in rules() if rule["alert"] == "RhConnectorSlow"]
    left_out = re.findall(r'route!~"[^"]+"', alert)
    assert left_out
    timed = [target["expr"] for _, target in TARGETS if "rh_request_seconds" in target["expr"]]
    assert timed and all(left_out[0] in expression for expression in timed)


def test_variables_are_defined_and_asked_of_metrics_that_exist() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD))) - {"__all"}
    assert used == set(variables)
    for variable in variables.values():
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked is not None and asked.group(2) == variable["name"]
        assert variable["definition"] == variable["query"]["query"]
        assert [selector.name for selector in selectors(asked.group(1))] == ["rh_build_info"]


def test_the_panels_are_complete_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    cells = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(cell["x"] + cell["w"] <= 24 for cell in cells)
    for one, other in combinations(cells, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_hit_rates_are_between_nothing_and_all() -> None:
    (panel,) = [panel for panel in PANELS if panel["title"] == "Hit rate"]
    (target,) = panel["targets"]
    division = promql_parser.parse(expression_of(target))
    assert isinstance(division, promql_parser.BinaryExpr)
    hits, every = (list(selectors(str(side))) for side in (division.lhs, division.rhs))
    assert [selector.name for selector in hits + every] == ["rh_cache_lookups_total"] * 2
    assert {matcher.name for matcher in hits[0].matchers.matchers} == {"job", "instance", "result"}
    assert {matcher.name for matcher in every[0].matchers.matchers} == {"job", "instance"}
