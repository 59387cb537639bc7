"""Requests to a cluster that can be shown before they are sent, without the secrets in them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from connector.engines.cluster.connection import Connection

__all__ = ["FILE", "KEY", "Call", "curl", "filled", "without_files", "without_key"]

KEY = "@RH_KEY@"
"""Stands in bodies for the key of the service, which is put in when a call is sent and never shown."""

FILE = "@RH_FILE:"
"""Begins a text of a body that stands for what is in a file, which is read when a call is sent and never shown."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        method: HTTP method.
        path: with its leading slash.
        body: JSON; ``KEY`` in its texts stands for the service's key, ``FILE`` with a path for a file.
        why: what it does, in a few words.
        gives: name and JSON key of what later calls need of the answer, as in ("CONNECTOR_ID", "connector_id").
        undo: the calls that bring back what was there before it.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    why: str = ""
    gives: tuple[str, str] | None = None
    undo: tuple[Call, ...] = ()

    def send(self, connection: Connection, key: str) -> Any:
        """Send it, with the key.

        Raises:
            ClusterError: see ``Connection.request``.
        """
        body = self.body
        if body is not None:
            # In JSON text, so that a key with quotes stays one string.
            body = _read(json.loads(json.dumps(body).replace(KEY, json.dumps(key)[1:-1])))
        return connection.request(self.method, self.path, body)


def curl(call: Call, url: str) -> str:
    """The call as a line for a shell; the key comes from its variable RH_KEY, ids from earlier lines."""
    path = shlex.quote(url) + (f'"{call.path}"' if "$" in call.path else shlex.quote(call.path))
    parts = ["curl", "-sS", "-X", call.method, path]
    if call.body is not None:
        text = json.dumps(call.body, ensure_ascii=False)
        files = list(_files(call.body))
        for place, path in enumerate(files):
            text = text.replace(json.dumps(FILE + path, ensure_ascii=False), f'"{FILE}{place}"')
        quoted = shlex.quote(text).replace(KEY, "'\"$RH_KEY\"'")
        for place, path in enumerate(files):
            # The shell reads the file, with its line breaks as JSON has them.
            read = f"$(sed -z 's/\\n/\\\\n/g' {shlex.quote(path)})"
            quoted = quoted.replace(f"{FILE}{place}", f"'\"{read}\"'")
        for name in ("CONNECTOR_ID", "GROUP_ID", "MODEL_ID"):
            quoted = quoted.replace(f"${name}", f"'\"${name}\"'")
        parts += ["-H", "'Content-Type: application/json'", "-d", quoted]
    line = " ".join(parts)
    if call.gives is not None:
        name, key = call.gives
        line = f"{name}=$({line} | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"{key}\"])')"
    return line


def filled(call: Call, known: Mapping[str, str]) -> Call:
    """The call, and what undoes it, with the ids that earlier calls gave."""
    text, path = json.dumps(call.body), call.path
    for name, value in known.items():
        text, path = text.replace(f"${name}", value), path.replace(f"${name}", value)
    return replace(call, path=path, body=json.loads(text), undo=tuple(filled(back, known) for back in call.undo))


def without_files(text: str, body: Any) -> str:
    """A message of the cluster without what the files of a body hold."""
    for path in _files(body):
        held = Path(path).read_text()
        text = without_key(without_key(text, held), json.dumps(held)[1:-1])
    return text


def _files(body: Any) -> Iterator[str]:
    if isinstance(body, str) and body.startswith(FILE):
        yield body.removeprefix(FILE)
    elif isinstance(body, Mapping):
        for value in body.values():
            yield from _files(value)


def _read(body: Any) -> Any:
    if isinstance(body, Mapping):
        return {key: _read(value) for key, value in body.items()}
    if isinstance(body, str) and body.startswith(FILE):
        return Path(body.removeprefix(FILE)).read_text()
    return body


def without_key(text: str, key: str) -> str:
    """A message of the cluster, which may quote what it was sent, without the key."""
    return text.replace(key, "***") if key else text
