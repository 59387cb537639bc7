"""What an installation changed in a cluster's settings, kept in the cluster itself so that it can be undone.

It lies under ``cluster.metadata.rh_connector.NAME``, a prefix that both products leave to their users, and is written
in the same request as the settings: whatever happens afterwards, it is known what they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PREFIX", "SettingsRecord"]

PREFIX = "cluster.metadata.rh_connector."


@dataclass
class SettingsRecord:
    """The changes of one installation.

    Attributes:
        settings: key -> (persistent value before, None where there was none; value in force before).
        patterns: entries that were added to lists.
        indices: index -> default pipeline before, None where there was none.
        hosts: pipeline of somebody else that holds our processors -> its lists that were empty before.
    """

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)
    indices: dict[str, str | None] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> SettingsRecord:
        """From the cluster's setting."""
        stored = json.loads(text)
        settings = {key: (before, was) for key, (before, was) in stored["settings"].items()}
        return cls(settings, list(stored["patterns"]), dict(stored["indices"]), dict(stored.get("hosts", {})))

    def to_text(self) -> str:
        """For the cluster's setting."""
        stored = {"settings": self.settings, "patterns": self.patterns, "indices": self.indices, "hosts": self.hosts}
        return json.dumps(stored, sort_keys=True)

    def undone(self, name: str, persistent: Mapping[str, Any]) -> dict[str, Any]:
        """Persistent settings that bring back what was before, leaving what others have added since.

        While other installations remain, the settings stay and the first of these inherits the record.

        Args:
            name: of this installation.
            persistent: the cluster's persistent settings now, flat.
        """
        back: dict[str, Any] = {PREFIX + name: None}
        heirs = [key for key in sorted(persistent) if key.startswith(PREFIX) and key != PREFIX + name]
        if heirs:
            heir = SettingsRecord.read(persistent[heirs[0]])
            heir.patterns = list(dict.fromkeys([*heir.patterns, *self.patterns]))
            for key, entry in self.settings.items():
                known = heir.settings.get(key)
                # Of two lists the shorter one is the earlier.
                if known is None or (isinstance(entry[1], list) and len(entry[1]) < len(known[1])):
                    heir.settings[key] = entry
            return back | {heirs[0]: heir.to_text()}
        for key, (before, was) in self.settings.items():
            now = persistent.get(key)
            if isinstance(now, list):
                rest = [entry for entry in now if entry not in self.patterns]
                back[key] = before if rest == was else rest
            else:
                back[key] = before
        return back
