"""The Kubernetes manifests: valid, hardened, and consistent with the program and among themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from connector.service import server
from connector.settings import load_settings
from tests.deploy.conftest import DEPLOY, PORT, SECRETS, VARIABLES, documents

FOLDER = DEPLOY / "kubernetes"
BASE = FOLDER / "base"
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
# The oldest version that has all that is used, and the newest that the validator knows.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# No resources: settings, patches, and the adapter's own configuration.
_OTHER = {"config.yaml", "kustomization.yaml", "patch.yaml", "adapter-rules.yaml"}
# Of the Prometheus operator: no schema is part of Kubernetes.
_CUSTOM = {"service-monitor.yaml"}
NAME = {"app.kubernetes.io/name": "rh-connector"}

MANIFESTS = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name not in _OTHER | _CUSTOM]
SHOWN = ["base", "overlays/gpu", "overlays/full"]


def manifest(name: str) -> Any:
    (path,) = FOLDER.rglob(name)
    (document,) = documents(path)
    return document


def pod() -> Any:
    return manifest("deployment.yaml")["spec"]["template"]["spec"]


def container() -> Any:
    (found,) = pod()["containers"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_schema_of_kubernetes(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_sees_mistakes() -> None:
    wrong = manifest("service.yaml")
    wrong["spec"]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_what_a_kustomization_names_is_there_and_what_is_there_is_named(path: Path) -> None:
    (document,) = documents(path)
    named = [*document.get("resources", []), *document.get("components", [])]
    named += [patch["path"] for patch in document.get("patches", []) if "path" in patch]
    named += [name for generator in document.get("configMapGenerator", []) for name in generator["files"]]
    assert all((path.parent / name).exists() for name in named)
    beside = {other.name for other in path.parent.glob("*.yaml")} - {path.name, "adapter-rules.yaml"}
    assert beside <= set(named)


@pytest.mark.parametrize("folder", SHOWN)
def test_what_kustomize_makes_of_it(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (no package of the extra dev has kustomize)")
    run = subprocess.run([kubectl, "kustomize", str(FOLDER / folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    made = {document["kind"]: document for document in yaml.safe_load_all(run.stdout)}
    for kind, document in made.items():
        if kind != "ServiceMonitor":
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    spec = made["Deployment"]["spec"]
    assert ("replicas" in spec) is ("HorizontalPodAutoscaler" not in made)
    (only,) = spec["template"]["spec"]["containers"]
    assert re.fullmatch(r"rh-connector:\d+\.\d+\.\d+(-gpu)?", only["image"])
    sources = {volume["name"]: set(volume) - {"name"} for volume in spec["template"]["spec"]["volumes"]}
    assert all(len(source) == 1 for source in sources.values())
    config = next(volume["configMap"] for volume in spec["template"]["spec"]["volumes"] if "configMap" in volume)
    assert config["name"] == made["ConfigMap"]["metadata"]["name"] != "rh-connector"
    # Labels of ours must not find their way to the clients of the network policy.
    clients = made["NetworkPolicy"]["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert clients == {"rh-connector/client": "true"}
    limits = only["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) is (folder == "overlays/gpu") is only["image"].endswith("-gpu")


def test_selectors_find_the_pods() -> None:
    deployment = manifest("deployment.yaml")
    assert deployment["spec"]["template"]["metadata"]["labels"] == NAME
    assert deployment["spec"]["selector"]["matchLabels"] == NAME
    assert manifest("service.yaml")["spec"]["selector"] == NAME
    assert manifest("disruption-budget.yaml")["spec"]["selector"]["matchLabels"] == NAME
    assert manifest("network-policy.yaml")["spec"]["podSelector"]["matchLabels"] == NAME
    for constraint in pod()["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == NAME
    # The Service's own label, which the kustomization of the base sets.
    (base,) = documents(BASE / "kustomization.yaml")
    assert manifest("service-monitor.yaml")["spec"]["selector"]["matchLabels"] == NAME == base["labels"][0]["pairs"]


def test_probes_ask_for_what_is_answered_without_a_key(routes: set[str]) -> None:
    probes = {kind: container()[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/ready",
        "livenessProbe": "/live",
        "readinessProbe": "/ready",
    }
    assert {probe["path"] for probe in probes.values()} <= routes
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_ports_agree() -> None:
    assert container()["ports"] == [{"name": "http", "containerPort": PORT}]
    (port,) = manifest("service.yaml")["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["name"]) == (PORT, "http", "http")
    (ingress,) = manifest("network-policy.yaml")["spec"]["ingress"]
    assert [port["port"] for port in ingress["ports"]] == ["http"]
    (endpoint,) = manifest("service-monitor.yaml")["spec"]["endpoints"]
    assert endpoint["port"] == "http"


def test_the_scrape_carries_a_key_to_a_path_that_exists(routes: set[str]) -> None:
    (endpoint,) = manifest("service-monitor.yaml")["spec"]["endpoints"]
    assert endpoint["path"] in routes
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "rh-connector", "key": "metrics-key"},
    }


def test_the_settings_file_and_the_variables_are_accepted() -> None:
    variables = {entry["name"]: entry for entry in container()["env"]}
    ours = {name for name in variables if name.startswith("RH_")}
    assert ours <= VARIABLES
    for name in ours & SECRETS:
        assert "secretKeyRef" in variables[name]["valueFrom"], f"{name} is a secret"
    folders = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert variables["RH_CONFIG"]["value"] == f"{folders['config']}/config.yaml"
    secrets = dict.fromkeys(ours - {"RH_CONFIG"}, "secret")
    settings = load_settings(BASE / "config.yaml", environment=secrets)
    assert settings.serve.port == PORT
    # The egress rule lets the engine's port through.
    allowed = {port["port"] for rule in manifest("network-policy.yaml")["spec"]["egress"] for port in rule["ports"]}
    assert int((settings.engine.url or "").rpartition(":")[2]) in allowed


def test_memory_holds_model_and_cache() -> None:
    settings = load_settings(BASE / "config.yaml", environment={})
    resources = container()["resources"]
    # 1.2 GB for smollm2-135m in float32.
    needed = 1200 + settings.cache.memory_mb
    assert int(resources["requests"]["memory"].removesuffix("Mi")) >= needed
    assert int(resources["limits"]["memory"].removesuffix("Gi")) * 1024 >= needed * 1.25
    assert resources["requests"]["cpu"] == "2"


def test_service_variables_are_kept_out() -> None:
    """RH_CONNECTOR_PORT, which Kubernetes makes of a Service's name, would be refused as an unknown setting."""
    assert pod()["enableServiceLinks"] is False


def test_a_pod_is_killed_only_after_its_requests_had_their_time() -> None:
    command, seconds = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod()["terminationGracePeriodSeconds"] > int(seconds) + server._GRACE_SECONDS


def test_pods_are_spread_over_nodes_and_zones() -> None:
    keys = [constraint["topologyKey"] for constraint in pod()["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_the_pod_is_hardened() -> None:
    assert pod()["automountServiceAccountToken"] is False
    outer, inner = pod()["securityContext"], container()["securityContext"]
    assert (outer["runAsNonRoot"], outer["runAsUser"]) == (True, 10001)
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # With a root file system that is read-only, all that is written to must be a volume.
    volumes = {volume["name"] for volume in pod()["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    assert {"/var/cache/rh-connector", "/tmp"} <= set(mounts)
    assert set(mounts.values()) == volumes


def test_what_the_job_writes_is_what_the_pods_read() -> None:
    job = manifest("precompute.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (sync,), (export,) = job["initContainers"], job["containers"]
    assert (sync["args"], export["args"][:2]) == (["cache", "sync"], ["cache", "export"])
    patch = yaml.safe_load((FOLDER / "components" / "precomputed" / "patch.yaml").read_text())
    reading = patch["spec"]["template"]["spec"]
    (variable,) = reading["containers"][0]["env"]
    assert variable == {"name": "RH_CACHE__SHARED", "value": export["args"][2]}
    (mount,), (volume,) = reading["containers"][0]["volumeMounts"], reading["volumes"]
    assert mount["readOnly"] is volume["persistentVolumeClaim"]["readOnly"] is True
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in documents(next(FOLDER.rglob("claims.yaml")))}
    shared = volume["persistentVolumeClaim"]["claimName"]
    assert claims[shared]["accessModes"] == ["ReadWriteMany"] and mount["mountPath"] in variable["value"]
    for one in (sync, export):
        assert one["image"] == container()["image"] and one["securityContext"] == container()["securityContext"]
        own = {entry["name"]: entry for entry in one["env"]}
        assert set(own) <= VARIABLES | {"OMP_NUM_THREADS"}
        assert all("secretKeyRef" in own[name]["valueFrom"] for name in set(own) & SECRETS)
        settings = load_settings(
            BASE / "config.yaml", environment={"RH_CACHE__DISK_MB": own["RH_CACHE__DISK_MB"]["value"]}
        )
        for claim in claims.values():
            room = int(claim["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
            assert settings.cache.disk_mb * 1e6 < room
    for key in ("runAsNonRoot", "runAsUser", "fsGroup", "seccompProfile"):
        assert job["securityContext"][key] == pod()["securityContext"][key]
    assert job["enableServiceLinks"] is job["automountServiceAccountToken"] is False


def test_the_autoscaler_and_the_adapter_speak_of_the_same_metric() -> None:
    scaler = manifest("autoscaler.yaml")["spec"]
    deployment = manifest("deployment.yaml")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    (metric,) = scaler["metrics"]
    assert metric["type"] == "Pods"
    (rule,) = manifest("adapter-rules.yaml")["rules"]
    name = metric["pods"]["metric"]["name"]
    assert rule["name"]["as"] == name
    assert re.match(rule["name"]["matches"], name)
    assert scaler["minReplicas"] == deployment["spec"]["replicas"]
