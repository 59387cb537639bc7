"""Prometheus' files: expressions parse, metrics and labels exist, the scrape carries a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from tests.deploy.conftest import DEPLOY, PORT, documents
from tests.deploy.test_everything import LABELS, metric_names

FOLDER = DEPLOY / "prometheus"


def rules() -> list[Any]:
    (document,) = documents(FOLDER / "alerts.yml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def adapter_queries() -> list[str]:
    (document,) = documents(DEPLOY / "kubernetes/components/autoscaling/adapter-rules.yaml")
    queries = []
    for rule in document["rules"]:
        query = rule["metricsQuery"]
        fill = {"Series": rule["name"]["as"], "LabelMatchers": 'namespace="a",pod=~"b|c"', "GroupBy": "pod"}
        for name, value in fill.items():
            query = query.replace(f"<<.{name}>>", value)
        queries += [rule["seriesQuery"], query]
    return queries


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    yield from found


def exported_by_json_exporter() -> set[str]:
    (document,) = documents(FOLDER / "json-exporter.yml")
    metrics = [metric for module in document["modules"].values() for metric in module["metrics"]]
    return {f"{metric['name']}_{value}" for metric in metrics for value in metric["values"]}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_complete_and_its_expression_parses(rule: Any) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"\d+m", rule["for"])
    assert list(selectors(rule["expr"]))


def test_the_parser_sees_mistakes() -> None:
    for wrong in ("sum(rate(a[5m])", "rate(a)", "a ==", "histogram_quantile(0.95)"):
        with pytest.raises(ValueError):
            promql_parser.parse(wrong)


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in rules()), *adapter_queries()])
def test_metrics_and_label_values_exist(expression: str) -> None:
    known = metric_names() | exported_by_json_exporter() | {"up"}
    for selector in selectors(expression):
        assert selector.name in known
    for label, value in re.findall(r'(\w+)!?="([^"]+)"', expression):
        assert value in LABELS.get(label, {value})


def test_routes_that_are_left_out_of_the_latency_exist(routes: set[str]) -> None:
    (expression,) = [rule["expr"] for rule in rules() if rule["alert"] == "RhConnectorSlow"]
    found = re.search(r'route!~"([^"]+)"', expression)
    assert found is not None
    assert set(found.group(1).split("|")) - {"other"} <= routes


def test_every_alert_is_tested() -> None:
    (document,) = documents(FOLDER / "alerts-test.yml")
    cases = [case for test in document["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_the_scrape(routes: set[str]) -> None:
    (document,) = documents(FOLDER / "scrape.yml")
    assert all((FOLDER / name).is_file() for name in document["rule_files"])
    job = next(job for job in document["scrape_configs"] if job["job_name"] == "rh-connector")
    assert job["metrics_path"] in routes
    assert set(job["authorization"]) == {"type", "credentials_file"}
    (group,) = job["static_configs"]
    assert all(target.endswith(f":{PORT}") for target in group["targets"])
    assert any('job="rh-connector"' in rule["expr"] for rule in rules())


def test_modules_that_are_asked_for_exist() -> None:
    (scrape,), (exporter,) = documents(FOLDER / "scrape.yml"), documents(FOLDER / "json-exporter.yml")
    asked = {name for job in scrape["scrape_configs"] for name in job.get("params", {}).get("module", [])}
    assert asked == set(exporter["modules"])
