"""What a node release is, and the error that a reader can act on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NoJava", "NodeError", "Release"]


class NodeError(Exception):
    """Something that keeps a node from being made or started, in one sentence."""


class NoJava(NodeError):
    """No Java on this machine runs that release."""


@dataclass(frozen=True)
class Release:
    """One supported release: a profile of the parts list, and the Java versions that run it."""

    product: str
    version: str
    java_min: int
    java_max: int
    why_java: str
    needs_compiler: bool = False

    @property
    def major(self) -> int:
        """First number of the version."""
        return int(self.version.split(".")[0])

    @property
    def fitting_java(self) -> str:
        """In words, for error messages."""
        kind = "JDK" if self.needs_compiler else "Java"
        newest = "or newer" if self.java_max == 99 else f"to {self.java_max}"
        return f"{kind} {self.java_min} {newest}"
