"""The exceptions of rh-connector, and the exit code each becomes on the command line.

::

    RhConnectorError            1
    ├── SettingsError           2   a setting, an option or an argument is wrong
    ├── EngineError             3   the search engine or its index failed
    │   └── MissingIndexError   3   there is no such index
    ├── BackboneError           4   the LLM, its files, a head set or a bundle is wrong or missing
    │   └── MissingExtraError   4   an optional dependency is not installed
    └── DataError               5   documents, queries, runs or judgments are wrong
        └── RequestError        5   one rerank request is wrong (HTTP 400/422)

A message is one line: what is wrong, where, how to mend it.
"""

from __future__ import annotations

from connector.installation import this_installation

__all__ = [
    "BackboneError",
    "DataError",
    "EngineError",
    "MissingExtraError",
    "MissingIndexError",
    "RequestError",
    "RhConnectorError",
    "SettingsError",
]


class RhConnectorError(Exception):
    """Base of every error that a user can mend."""

    exit_code = 1


class SettingsError(RhConnectorError):
    """A setting, an option or an argument is wrong."""

    exit_code = 2


class EngineError(RhConnectorError):
    """The search engine, or its index, is missing, unreachable or refuses."""

    exit_code = 3


class MissingIndexError(EngineError):
    """There is no index of the name that is searched."""


class BackboneError(RhConnectorError):
    """The frozen LLM, its files, a head set or a router bundle is missing, damaged or does not fit."""

    exit_code = 4


class MissingExtraError(BackboneError):
    """An optional dependency is not installed.

    Args:
        package: import name of what is missing.
        extra: the extra of ``rh-connector`` that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: {this_installation().adding(extra)}")
        self.package = package
        self.extra = extra


class DataError(RhConnectorError):
    """A document, query, run or judgment file is wrong."""

    exit_code = 5


class RequestError(DataError):
    """One rerank request is wrong: nothing is scored, the caller is told why."""
