"""Names that deploy/ takes from the program: settings, metrics, commands, files."""

from __future__ import annotations

import re
from functools import cache

import click
from prometheus_client.parser import text_string_to_metric_families

from connector.backbone.batching.work_queue import SchedulerStatistics
from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.caching.document_cache import CacheStatistics
from connector.backbone.runtime import DeviceStatistics
from connector.cli import cli
from connector.service.metrics import FALLBACK_REASONS, Metrics
from tests.deploy.conftest import DEPLOY, VARIABLES, texts

# Kubernetes' own, told of in a comment: the reason for enableServiceLinks: false.
_NO_SETTINGS = {"RH_CONNECTOR_PORT"}


# All values of a label whose values are known.
LABELS = {
    "reason": set(FALLBACK_REASONS),
    "outcome": {"reranked", "fallback", "error"},
    "result": {"hit", "miss"},
}


@cache
def metric_samples() -> dict[str, set[str]]:
    """Every sample of a service whose model is loaded, with a cache on disk, and the labels of each."""
    metrics = Metrics("model")
    metrics.request("/v1/rerank", 200, 0.1)
    metrics.watch_cache(lambda: CacheStatistics(1, 1, 0, 1, 9, 10, 20, disk_limit=30))
    metrics.watch_second_cache(lambda: CacheStatistics(1, 1, 0, 1, 9, 10, 20))
    metrics.watch_lookups(lambda: {"memory": Lookups(1, 1)})
    metrics.watch_scheduler(lambda: SchedulerStatistics(0, 0, 1, 1, 0))
    metrics.watch_plan(lambda: {"runtime": "torch"})
    metrics.watch_device(lambda: DeviceStatistics("NVIDIA H100", 1, 2, 1, 1, 1, 1, 0))
    text = metrics.exposition("")[0].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def metric_names() -> set[str]:
    return set(metric_samples())


def test_every_variable_is_a_setting() -> None:
    used = {(str(path), name) for path, text in texts() for name in re.findall(r"\bRH_[A-Z0-9_]*[A-Z0-9]", text)}
    assert len(used) > 20
    assert {(path, name) for path, name in used if name not in VARIABLES | _NO_SETTINGS} == set()


def test_every_metric_exists() -> None:
    names = metric_names() | {"rh_request_seconds"}
    used = {(str(path), name) for path, text in texts() for name in re.findall(r"\brh_[a-z_]*[a-z]", text)}
    assert len(used) > 10
    assert {(path, name) for path, name in used if name not in names} == set()


def test_links_and_files_that_the_readme_names_exist() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert links
    assert [link for link in links if "://" not in link and not (DEPLOY / link).exists()] == []
    folders = [path for path in DEPLOY.iterdir() if path.is_dir()]
    assert [path.name for path in folders if f"]({path.name}" not in text] == []


def test_commands_exist() -> None:
    context = click.Context(cli, info_name="rh-connector")
    for name in ("serve", "model"):
        assert cli.get_command(context, name) is not None
    model = cli.get_command(context, "model")
    assert isinstance(model, click.Group) and model.get_command(context, "pull") is not None


def test_no_registry_is_named() -> None:
    hosts = {host for _, text in texts() for host in re.findall(r"https?://([\w.-]+)", text)}
    # Names inside a compose network or a namespace, and this machine.
    assert {host for host in hosts if "." in host} <= {"127.0.0.1"}
