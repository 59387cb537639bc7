"""Credentials: taken in as they are written to files and variables, and never shown.

Whatever is printed as an error, logged or raised to the terminal goes through ``redacted``: the one place that hides.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["HIDDEN", "Redacting", "cut", "keep_secret", "redact_tracebacks", "redacted", "without_user"]

HIDDEN = "(secret)"
# Shorter ones stand in ordinary words.
_SHORTEST = 3
_USER = re.compile(r"(?<=://)[^\s\"',<>]*@")
_PARAMETER = re.compile(
    r"(?i)([?&](?:api[_-]?key|apikey|access[_-]?token|auth[_-]?token|token|password|passwd|pwd|secret)=)[^&\s\"']+"
)
_secrets: set[str] = set()


def cut(value: Any) -> Any:
    """A credential without the white space that files and shells leave around it; other types as they are.

    Raises:
        ValueError: a character within that no header can carry; the text is not told.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    # Bytes that are no UTF-8 come as surrogates.
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise ValueError(
            "a line break, another control character or a byte that is no UTF-8 stands within it; "
            "give the credential alone"
        )
    return text


def without_user(url: str) -> tuple[str, str | None, str | None]:
    """A cluster's URL without its user info; user and password, decoded, or None where it has none.

    Raises:
        ValueError: it is no such URL, or has parameters; the URL is not told.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_NO_URL) from None
    behind = parts.path + parts.query + parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in behind:
        raise ValueError(_NO_URL)
    if parts.query or parts.fragment:
        raise ValueError("a cluster's URL has no parameters; set engine.api_key or another credential of its own")
    if parts.username is None and parts.password is None:
        return url, None, None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None else f"{host}:{port}"
    password = None if parts.password is None else unquote(parts.password)
    return f"{parts.scheme}://{place}{parts.path}", unquote(parts.username or ""), password


_NO_URL = (
    "no URL such as https://host:9200; set user and password as engine.username and engine.password, "
    "or write / # ? and @ in them in percent codes"
)


def keep_secret(values: Iterable[str], user: str | None = None) -> None:
    """Let ``redacted`` hide these from now on, and what headers make of them.

    Args:
        values: passwords, keys, tokens.
        user: who a password belongs to, for basic authentication.
    """
    for value in values:
        forms = [value, base64.b64encode(value.encode()).decode()]
        if user is not None:
            forms.append(base64.b64encode(f"{user}:{value}".encode()).decode())
        _secrets.update(form for form in forms if len(value) >= _SHORTEST)


def redacted(text: str) -> str:
    """The text without any known credential, user info of a URL, or parameter that is named like a credential."""
    text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", _USER.sub("", text))
    # In one pass, the longest first, and over what is hidden already: a secret may be a word of the mark itself.
    known = [HIDDEN, *sorted(_secrets, key=len, reverse=True)]
    return re.sub("|".join(map(re.escape, known)), HIDDEN, text)


class Redacting(logging.Formatter):
    """Log lines and their tracebacks, redacted."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
        return redacted(super().format(record))


def redact_tracebacks() -> None:
    """From now on, an exception that nobody catches is shown redacted, also those of threads and clean-ups."""

    def shown(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = shown
    threading.excepthook = lambda failed: shown(failed.exc_type, failed.exc_value, failed.exc_traceback)
    sys.unraisablehook = lambda failed: shown(failed.exc_type, failed.exc_value, failed.exc_traceback)
