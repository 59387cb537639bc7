"""Settings: config.yaml, environment (``RH_…``, ``__`` between levels) and options, in one typed table.

Precedence: option > environment > file > default. The table of fields below is the only one: parsing,
``rh-connector settings``, ``config.yaml`` and the docs are checked against it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from connector.credentials import HIDDEN, keep_secret, redacted
from connector.errors import SettingsError
from connector.json_kinds import json_kind
from connector.sections import Settings

__all__ = ["ENVIRONMENT_PREFIX", "Setting", "load_settings", "settings_table"]

ENVIRONMENT_PREFIX = "RH_"
_CONFIG_VARIABLE = "RH_CONFIG"
# Of a service whose name begins with rh-: https://kubernetes.io/docs/concepts/services-networking/service.
_SERVICE_LINK = re.compile(r"RH_\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
# What a settings file of an earlier version may still say, and what to do about it.
_REMOVED = {
    "cache.not_applicable_mb": "it was removed, what N/A gets is read with every query now; leave it out",
    "cache.dtype = 'int2'": "2 bits lost too much and are no longer offered; set cache.dtype to int4",
    "backbone.layout = 'block'": "it is gone, solo gains five times as much; set backbone.layout to solo, or to late",
}


class Setting(NamedTuple):
    """One row of the settings table."""

    key: str
    type: str
    default: Any
    help: str
    secret: bool


def settings_table() -> Iterator[Setting]:
    """Every setting, in the order of ``config.yaml``."""
    for section, section_field in Settings.model_fields.items():
        model = section_field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        for name, info in model.model_fields.items():
            annotation = str(info.annotation).replace("typing.", "").replace("pathlib._local.", "")
            default = None if info.default_factory else info.default
            secret = "SecretStr" in annotation
            yield Setting(f"{section}.{name}", annotation, default, info.description or "", secret)


def load_settings(
    path: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: a YAML file; default: the file named by ``RH_CONFIG``, else ``config.yaml`` in the working
            folder if there is one, else none.
        options: dotted key -> value; they win over everything. A value of None is left out.
        environment: default ``os.environ``.

    Raises:
        SettingsError: unknown key (the nearest known one is named), bad value, unreadable file.
    """
    environment = os.environ if environment is None else environment
    values = _read_file(path or environment.get(_CONFIG_VARIABLE))
    known = {setting.key for setting in settings_table()}
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != _CONFIG_VARIABLE and not _of_kubernetes(name, text):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _set(values, key, text, known, f"environment variable {name}")
    for key, value in (options or {}).items():
        if value is not None:
            _set(values, key, value, known, f"option {key}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, known)) from None
    keep_secret(_secrets(settings), settings.engine.username)
    if settings.router.mode == "all" and "layout" not in settings.backbone.model_fields_set:
        # The default reads no heads to rank by: who asks for all of them means the layout that does.
        settings = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"layout": "late"})})
    return settings


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, tuple):
        for inner in value:
            yield from _secrets(inner)


def _of_kubernetes(name: str, text: str) -> bool:
    """Whether Kubernetes set this variable, as it does in every pod for each service of the namespace."""
    return _SERVICE_LINK.fullmatch(name) is not None or (name.endswith("_PORT") and "://" in text)


def _read_file(path: Path | str | None) -> dict[str, Any]:
    if path is None:
        path = Path("config.yaml")
        if not path.is_file():
            return {}
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {_place(error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} must hold sections such as 'engine:', not {json_kind(loaded)}")
    # An empty section ("engine:" with every key commented out) is YAML's null.
    return {str(key): {} if value is None else value for key, value in loaded.items()}


def _place(error: yaml.YAMLError) -> str:
    """What is wrong and where; never the line itself, which may hold a password."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    # Of what it quotes only single signs are told.
    told = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "a word", str(problem)) if problem else "it cannot be read"
    return told if mark is None else f"{told}, line {mark.line + 1}, column {mark.column + 1}"


def _set(values: dict[str, Any], key: str, value: Any, known: set[str], source: str) -> None:
    if key not in known:
        raise SettingsError(f"{source} is not a setting{_nearest(key, known)}")
    section, name = key.split(".", 1)
    inner = values.setdefault(section, {})
    if not isinstance(inner, dict):
        raise SettingsError(f"'{section}' must hold keys such as {key}, not {json_kind(inner)}")
    # The environment has no null: an empty value stands for it, or YAML's word, which messages ask for.
    inner[name] = None if value in ("", "null") and _may_be_null(key) else value


def _may_be_null(key: str) -> bool:
    section, name = key.split(".", 1)
    model = Settings.model_fields[section].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    return "None" in str(model.model_fields[name].annotation)


def _nearest(key: str, known: set[str]) -> str:
    if key in _REMOVED:
        return f": {_REMOVED[key]}"
    sections = {name.split(".", 1)[0] for name in known}
    match = difflib.get_close_matches(key, sorted(known | sections), n=1, cutoff=0.5)
    if not match:
        # A bare name without its section: "fusion" means rerank.fusion.
        tails = {name.split(".", 1)[1]: name for name in known}
        match = [tails[m] for m in difflib.get_close_matches(key, sorted(tails), n=1, cutoff=0.6)]
    return f"; the nearest is {match[0]}" if match else f"; sections are {', '.join(sorted(sections))}"


def _explain(error: ValidationError, known: set[str]) -> str:
    first = error.errors()[0]
    secret_keys = {setting.key for setting in settings_table() if setting.secret}
    parts = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-"))]
    key = ".".join(parts[:2])
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting{_nearest(key, known)}"
    message = first["msg"].removeprefix("Value error, ")
    if len(parts) < 2:
        # Of a whole section, which may hold secrets: the message names the key.
        return message if message.startswith(f"{key}.") else f"{key}: {message}"
    shown = HIDDEN if key in secret_keys else redacted(repr(first["input"]))
    given = f"{key} = {shown}"
    return f"{given}: {_REMOVED.get(given, message)}"
