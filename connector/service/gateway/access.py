"""Which requests read, told by method and path alone."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from connector.service.gateway.cluster_errors import GatewayError

__all__ = ["check_access", "is_index", "names_endpoint", "path_segments"]

# A segment that any name of indices matches, and one that any id matches.
_INDEX, _ID = "{index}", "{id}"
# Under POST; [index]: also without it.
_READS = """
    [index]/_search  [index]/_msearch  [index]/_search/template  [index]/_msearch/template  [index]/_count
    _search/scroll  _search/scroll/{id}  {index}/_search/point_in_time  {index}/_pit  _pit/_all
    [index]/_mget  [index]/_field_caps  [index]/_validate/query  {index}/_explain/{id}  [index]/_analyze
    _render/template  _render/template/{id}  {index}/_termvectors  {index}/_termvectors/{id}  [index]/_mtermvectors
    [index]/_rank_eval  [index]/_search_shards  {index}/_terms_enum  [index]/_async_search  {index}/_eql/search
    _query  _query/async  {index}/_knn_search  _resolve/index/{id}  _resolve/cluster/{id}  _sql  _sql/translate
    _sql/close  _plugins/_sql  _plugins/_sql/_explain  _plugins/_sql/close  _plugins/_ppl  _plugins/_ppl/_explain
    _plugins/_asynchronous_search  _scripts/painless/_execute  _security/user/_has_privileges
"""
# Under DELETE: what a search left in the cluster.
_ENDINGS = """
    _search/scroll  _search/scroll/{id}  _search/point_in_time  _search/point_in_time/_all  _pit  _async_search/{id}
    _plugins/_asynchronous_search/{id}  _eql/search/{id}  _query/async/{id}
"""


def _patterns(text: str) -> frozenset[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for pattern in text.split():
        if pattern.startswith("[index]/"):
            rest = pattern.removeprefix("[index]/")
            found |= {tuple(rest.split("/")), (_INDEX, *rest.split("/"))}
        else:
            found.add(tuple(pattern.split("/")))
    return frozenset(found)


_ALLOWED = {"POST": _patterns(_READS), "DELETE": _patterns(_ENDINGS)}
_ALWAYS = frozenset({"GET", "HEAD", "OPTIONS"})
# Of date mathematics, as in <logs-{now/d}>, the slash is part of the name.
_INDEX_NAME = re.compile(r"(?:[^/]|/[yMwdhHms](?=[|}+-]))+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def path_segments(raw_path: bytes) -> list[str]:
    """The parts of a path as they were sent; the cluster ignores slashes at the end."""
    return raw_path.decode("latin-1").rstrip("/").split("/")[1:]


def is_index(segment: str) -> bool:
    """Whether a part of a path, as it was sent, can be the name of indices."""
    name = _decoded(segment)
    if name.startswith("_") and name != "_all":
        return False
    # Decoded twice by somebody on the way, a name must not become another path.
    return _INDEX_NAME.fullmatch(name) is not None and "%" not in name


def names_endpoint(path: str) -> bool:
    """Whether a path, decoded, can be one that a cluster takes POST for: they all have a part that begins with _."""
    return any(part.startswith("_") for part in path.split("/"))


def check_access(method: str, raw_path: bytes, *, writes: bool) -> None:
    """Let requests pass that read; with ``writes``, all that are well formed.

    What is compared is the path as it was sent: the clusters know their endpoints by these very letters, so an
    encoded name of one is none.

    Raises:
        GatewayError: it may not pass.
    """
    segments = path_segments(raw_path)
    for segment in segments:
        name = _decoded(segment)
        if _CONTROLS.search(name) or {".", ".."} & set(re.split(r"[/\\]", name)):
            raise GatewayError(
                400, "illegal_argument_exception", "the path holds '.', '..' or control characters; write it out"
            )
    if writes or method in _ALWAYS:
        return
    if any(_matches(pattern, segments) for pattern in _ALLOWED.get(method, ())):
        return
    raise GatewayError(
        403,
        "security_exception",
        f"{method} is not passed on for this path: the gateway lets requests through that read; send writes to the"
        " cluster itself, or set serve.gateway_writes: true",
    )


def _matches(pattern: tuple[str, ...], segments: list[str]) -> bool:
    return len(pattern) == len(segments) and all(
        bool(given) if wanted == _ID else is_index(given) if wanted == _INDEX else given == wanted
        for wanted, given in zip(pattern, segments, strict=True)
    )


def _decoded(segment: str) -> str:
    return unquote_to_bytes(segment.encode("latin-1")).decode("utf-8", "replace")
