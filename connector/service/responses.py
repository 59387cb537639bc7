"""The one way in which the service writes JSON."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

__all__ = ["AsciiJSONResponse", "one_line"]

_LONGEST_LINE = 200


class AsciiJSONResponse(JSONResponse):
    """JSON in pure ASCII; every other character is escaped.

    ML Commons decodes each network buffer as UTF-8 on its own, so a character of several bytes may be cut in
    two and come out damaged.
    """

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def one_line(text: str) -> str:
    """A text as a header may carry it: one line of at most 200 ASCII characters that show."""
    plain = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    # A control character in a header breaks the connection.
    # So does a blank at its end.
    return "".join(each if each.isprintable() else "?" for each in plain)[:_LONGEST_LINE].strip()
