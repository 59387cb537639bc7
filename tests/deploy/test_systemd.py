"""The systemd unit: its directives, and systemd's own opinion where systemd is."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from connector.settings import load_settings
from tests.deploy.conftest import DEPLOY, SECRETS, VARIABLES

UNIT = DEPLOY / "systemd" / "rh-connector.service"
# What may stand in the unit, by section: a directive that is spelt wrong is ignored by systemd with a warning alone.
KNOWN = {
    "Unit": {"Description", "Documentation", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"},
    "Service": {
        *("Type", "ExecStart", "DynamicUser", "CacheDirectory", "CacheDirectoryMode", "Environment"),
        *("EnvironmentFile", "Restart", "RestartSec", "KillSignal", "TimeoutStopSec", "MemoryHigh", "MemoryMax"),
        *("TasksMax", "OOMPolicy", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectClock"),
        *("ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectProc"),
        *("ProtectKernelTunables", "NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities"),
        *("LockPersonality", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "RemoveIPC", "UMask"),
        *("RestrictAddressFamilies", "SystemCallArchitectures", "SystemCallFilter"),
    },
    "Install": {"WantedBy"},
}


def parsed() -> dict[str, dict[str, list[str]]]:
    """Section -> directive -> values. Not configparser: directives may come more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), defaultdict(list))
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            current[name].append(value)
    return sections


def test_directives_are_known() -> None:
    assert {section: set(names) - KNOWN[section] for section, names in parsed().items()} == {
        "Unit": set(),
        "Service": set(),
        "Install": set(),
    }


def test_systemd_finds_nothing(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed; the directives are checked against the list above")
    unit = tmp_path / UNIT.name
    # The program is not at its place here, which alone would be a fault.
    unit.write_text(UNIT.read_text().replace("/opt/rh-connector/bin/rh-connector serve", "/bin/sh"))
    run = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_variables_are_settings_and_none_is_a_secret() -> None:
    environment = dict(value.split("=", 1) for value in parsed()["Service"]["Environment"])
    ours = {name: value for name, value in environment.items() if name.startswith("RH_")}
    assert set(ours) <= VARIABLES - SECRETS
    cache = f"/var/cache/{parsed()['Service']['CacheDirectory'][0]}"
    settings = load_settings("/dev/null", environment={n: v for n, v in ours.items() if n != "RH_CONFIG"})
    assert str(settings.cache.path) == environment["HOME"] == cache
    assert environment["RH_CONFIG"].startswith("/etc/rh-connector/")


def test_the_service_is_hardened_and_stops_in_time() -> None:
    service = {name: values[0] for name, values in parsed()["Service"].items()}
    assert service["ExecStart"].endswith("/rh-connector serve")
    assert (service["DynamicUser"], service["ProtectSystem"], service["NoNewPrivileges"]) == ("yes", "strict", "yes")
    assert (service["CapabilityBoundingSet"], service["Restart"]) == ("", "on-failure")
    # Longer than the ten seconds that requests under way are given.
    assert int(service["TimeoutStopSec"]) > 10
    assert all(
        value.startswith(("-/etc/rh-connector/", "/etc/rh-connector/")) for value in [service["EnvironmentFile"]]
    )
