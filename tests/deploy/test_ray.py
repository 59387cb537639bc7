"""The job for KubeRay: its pods are valid and hardened, and its command is one of the program's."""

from __future__ import annotations

import shlex
import tomllib
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from packaging.requirements import Requirement

from connector.cli import cli
from tests.deploy.conftest import DEPLOY, ROOT, documents
from tests.deploy.test_kubernetes import VERSIONS

JOB, CLAIM = documents(DEPLOY / "ray" / "job.yaml")
CLUSTER = JOB["spec"]["rayClusterSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS = {"head": CLUSTER["headGroupSpec"]["template"], "worker": WORKERS["template"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))
def test_the_schema_of_kubernetes(pod: Any, version: str) -> None:
    """KubeRay's own schema is no part of Kubernetes; the templates in it are."""
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, version, strict=True)
    kubernetes_validate.validate(CLAIM, version, strict=True)


def test_the_keys_of_a_ray_job() -> None:
    """As the operator's RayJob has them (ray.io/v1, KubeRay 1.1 or later)."""
    assert JOB["apiVersion"] == "ray.io/v1" and JOB["kind"] == "RayJob"
    known = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
    assert set(JOB["spec"]) == known
    assert set(CLUSTER) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]


@pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))
def test_pods_are_hardened(pod: Any) -> None:
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["automountServiceAccountToken"] is False
    (container,) = pod["spec"]["containers"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and own["capabilities"]["drop"] == ["ALL"]
    assert own["allowPrivilegeEscalation"] is False and "memory" in container["resources"]["limits"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_as_many_workers_find_room_as_there_are_replicas() -> None:
    """One CPU more than there are workers: the head's."""
    (container,) = PODS["worker"]["spec"]["containers"]
    cpus = WORKERS["replicas"] * int(container["resources"]["limits"]["cpu"])
    assert int(CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"]) + cpus - 1 == WORKERS["replicas"]


def test_the_entrypoint_is_a_command_of_the_program() -> None:
    name, command, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    found = cli.get_command(None, command)  # type: ignore[arg-type]
    assert name == "rh-connector" and found is not None
    context = found.make_context(command, arguments)
    assert context.params["ray"] == "auto" and str(context.params["out"]).startswith("/data/")


def test_the_version_of_ray_is_one_that_the_extra_takes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = map(Requirement, extras["ray"])
    assert requirement.name == "ray" and requirement.specifier.contains(CLUSTER["rayVersion"])
