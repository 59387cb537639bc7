"""Request bodies: read up to a limit, then parsed so that no JSON text whatever makes the service stumble."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, NoReturn

import anyio
from starlette.requests import ClientDisconnect, Request

from connector.json_kinds import json_kind
from connector.service.admission import ClientGone
from connector.service.errors import Failure, ServiceError

__all__ = ["NotGzip", "parse_object", "read_body", "read_plain_body", "unpacked"]

_DEEPEST = 100
# Of a whole number: more than any float has before its point.
_MOST_DIGITS = 400
# A body that is too large is read to its end, but not kept: a client that is still sending when the connection is
# closed sees a reset instead of the answer. Not for ever, though.
_DROP_LIMITS = 4
_DROP_SECONDS = 5.0
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotGzip(Exception):
    """A body that is said to be gzip and is not."""


async def read_plain_body(request: Request, limit_mb: int) -> bytes:
    """The body as it was before it was compressed; both sizes are limited.

    Raises:
        ServiceError: larger than ``limit_mb`` (413), compressed in another way (415), damaged (400).
        ClientGone: the client went away before it had sent all of it.
    """
    compression = request.headers.get("content-encoding", "identity").strip().lower()
    if compression not in ("gzip", "identity", ""):
        raise ServiceError(
            Failure.UNKNOWN_ENCODING,
            f"Content-Encoding is '{compression[:40]}'; send the body as it is, or with gzip",
            {"Accept-Encoding": "gzip, identity"},
        )
    body = await read_body(request, limit_mb)
    if compression != "gzip":
        return body
    try:
        return unpacked(body, limit_mb)
    except NotGzip:
        raise _malformed(
            "Content-Encoding is 'gzip' and the body is not; send it whole, or take the header out"
        ) from None


def unpacked(body: bytes, limit_mb: int) -> bytes:
    """What a gzip body holds.

    Raises:
        NotGzip: it is damaged, cut off, or not gzip.
        ServiceError: 413, unpacked it is larger than ``limit_mb``.
    """
    limit, text, rest = limit_mb * 1024 * 1024, bytearray(), body
    # A file of several members is what they hold together (RFC 1952, 2.2).
    while rest or not text:
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            # One byte more than there may be tells a body that is too large.
            text += unpacking.decompress(rest, limit - len(text) + 1)
        except zlib.error:
            raise NotGzip from None
        if len(text) > limit:
            raise ServiceError(
                Failure.TOO_LARGE,
                f"the body is larger than {limit_mb} MB when unpacked; send less or raise serve.max_body_mb",
            )
        if not unpacking.eof:
            raise NotGzip
        if not unpacking.unused_data:
            break
        rest = unpacking.unused_data
    return bytes(text)


async def read_body(request: Request, limit_mb: int) -> bytes:
    """The body, counted while it comes in, so that a chunked one is limited too.

    Raises:
        ServiceError: the body is larger than ``limit_mb`` (413).
        ClientGone: the client went away before it had sent all of it.
    """
    try:
        return await _read(request, limit_mb)
    except ClientDisconnect:
        raise ClientGone from None


async def _read(request: Request, limit_mb: int) -> bytes:
    limit = limit_mb * 1024 * 1024
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and int(declared[:20]) > limit
    # A client that asks first sends nothing when it is refused.
    if too_large and "100-continue" in request.headers.get("expect", "").lower():
        raise _too_large(limit_mb)
    body = bytearray()
    dropped = 0
    with anyio.move_on_after(_DROP_SECONDS if too_large else None) as scope:
        async for chunk in request.stream():
            if not too_large:
                body += chunk
                too_large = len(body) > limit
                if too_large:
                    scope.deadline = anyio.current_time() + _DROP_SECONDS
                continue
            dropped += len(chunk)
            if dropped > _DROP_LIMITS * limit:
                break
    if too_large:
        raise _too_large(limit_mb)
    return bytes(body)


def _too_large(limit_mb: int) -> ServiceError:
    return ServiceError(
        Failure.TOO_LARGE,
        f"the body is larger than {limit_mb} MB; send fewer documents or raise serve.max_body_mb",
        {"Connection": "close"},
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Lone surrogates become U+FFFD; of a key given twice, the last counts.

    Raises:
        ServiceError: not UTF-8, not JSON, not an object, NaN or Infinity, or nested too deeply (400).
    """
    try:
        value = _parse(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _malformed(f"the body is nested deeper than {_DEEPEST} levels") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"the body is not JSON: {error.msg} ({where})") from None
    except ValueError as error:
        raise _malformed(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _malformed(f"the body must be a JSON object, not {json_kind(value)}")
    if not _is_shallow(value):
        raise _malformed(f"the body is nested deeper than {_DEEPEST} levels")
    return value


def _parse(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    if _SURROGATE.search(text):
        # Half a surrogate pair is legal in JSON but not in Unicode: pydantic, tokenizers and UTF-8 all refuse it.
        # Through text and back mends keys and values at any depth at once.
        plain = json.dumps(value, ensure_ascii=False)
        mended = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        value = json.loads(mended)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}… has {len(text)} digits, too many for a number")
    return int(text)


def _is_shallow(value: Any) -> bool:
    # Level by level rather than recursively: the depth is what is not known.
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _malformed(message: str) -> ServiceError:
    return ServiceError(Failure.MALFORMED, message)
