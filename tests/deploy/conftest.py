"""What the checks of deploy/ share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from connector.service.app import create_app
from connector.settings import ENVIRONMENT_PREFIX, load_settings, settings_table
from tests.service.standin import StandIn

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# RH_CONFIG names the settings file; it is no setting itself.
VARIABLES = {f"{ENVIRONMENT_PREFIX}{row.key.replace('.', '__').upper()}" for row in settings_table()} | {"RH_CONFIG"}
SECRETS = {f"{ENVIRONMENT_PREFIX}{row.key.replace('.', '__').upper()}" for row in settings_table() if row.secret}
PORT = load_settings(options={}, environment={"RH_CONFIG": "/dev/null"}).serve.port


def tool(name: str) -> str:
    """A program of the extra dev; that it is missing is a failure, not a reason to pass."""
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    assert path is not None, f"{name} is missing beside {sys.executable}; install the extra dev (make setup)"
    return path


def documents(path: Path) -> list[Any]:
    """The YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of deploy/ with its content."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            yield path.relative_to(DEPLOY), path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def routes() -> set[str]:
    """The paths that the application answers."""
    app = create_app(StandIn(), load_settings(options={}, environment={"RH_CONFIG": "/dev/null"}))
    return {getattr(route, "path", "") for route in app.routes}
