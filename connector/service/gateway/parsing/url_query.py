"""The query string of a URL, changed in some parameters only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes

__all__ = ["only_parameters", "read_parameters", "with_parameters"]


def read_parameters(query: bytes) -> dict[str, str]:
    """Name → value; of a name given twice, the last one counts, as for the cluster."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def with_parameters(query: bytes, values: Mapping[str, str]) -> bytes:
    """The query string with these values; all other parameters stay as they were written."""
    kept = only_parameters(query, lambda name: name not in values)
    added = b"&".join(f"{quote_plus(name)}={quote_plus(value)}".encode() for name, value in values.items())
    return b"&".join(part for part in (kept, added) if part)


def only_parameters(query: bytes, keep: Callable[[str], bool]) -> bytes:
    """The query string without the parameters whose name ``keep`` refuses."""
    return b"&".join(part for part in query.split(b"&") if part and keep(_name(part)))


def _name(part: bytes) -> str:
    name = part.partition(b"=")[0].replace(b"+", b" ")
    return unquote_to_bytes(name).decode("utf-8", "replace")
