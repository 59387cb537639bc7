"""Models of ML Commons in real nodes, undeployed while they are still being deployed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, Connection
from connector.writeback.calls import Call
from connector.writeback.deployment import MODELS, Deployment
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.nodes.process import Node
from tests.writeback.test_opensearch import node, options

__all__ = ["node"]


@pytest.fixture
def installed(node: Node) -> Iterator[OpenSearchPipeline]:
    """A plan and the calls that come before the model's."""
    with closing(connect(options(node).engine)) as connection:
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"))
        pipeline.install()
        yield pipeline
        pipeline.uninstall()


def registered(connection: Connection, pipeline: OpenSearchPipeline) -> str:
    found = pipeline.find()
    assert found.connector and found.group
    body = {**pipeline.plan.model(found.connector[0], found.group[0]), "name": "another"}
    return str(connection.request("POST", f"{MODELS}/_register?deploy=true", body)["model_id"])


def test_a_model_can_be_deleted_however_far_its_deployment_is(installed: OpenSearchPipeline) -> None:
    connection = installed.connection
    for pause in (0, 0, 0, 0.003, 0.006, 0.01, 0.02):
        model = registered(connection, installed)
        time.sleep(pause)
        Deployment(connection, model).undeploy()
        Call("DELETE", f"{MODELS}/{model}").send(connection, "")
        assert Deployment(connection, model).state() is None


def test_a_connector_can_be_changed_right_after_its_model_was_deployed(installed: OpenSearchPipeline) -> None:
    for _ in range(3):
        installed.renew_key()
    found = installed.find()
    assert found.model and found.model[1]["model_state"] == "DEPLOYED" and installed.drift(found) == []


def test_a_missing_model_is_passed_over_and_what_stays_deployed_is_told(installed: OpenSearchPipeline) -> None:
    Deployment(installed.connection, "missing").undeploy()
    found = installed.find()
    assert found.model
    with pytest.raises(ClusterError, match="stays DEPLOYED"):
        Deployment(installed.connection, found.model[0], seconds=0).undeploy()
