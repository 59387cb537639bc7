"""Licences that ask to be accepted: shown once, remembered in the cache folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

from connector.checkpoints.catalogue import CatalogueEntry
from connector.checkpoints.file_hashes import write_json
from connector.errors import BackboneError

__all__ = ["AcceptLicense", "accepting", "is_accepted", "plain_text", "require_licence"]

AcceptLicense = Callable[[str, str], bool]
"""(model name, terms as plain text) -> whether they are accepted."""


def accepting(accepted: bool) -> AcceptLicense | None:
    """Says yes to all terms where ``backbone.accept_license`` is set; None: they have to be asked for."""
    return (lambda name, terms: True) if accepted else None


def is_accepted(entry: CatalogueEntry, cache: Path) -> bool:
    """Whether the model's terms were accepted before, or it has none."""
    return entry.terms is None or _record(entry, cache).is_file()


def require_licence(entry: CatalogueEntry, terms: Path, cache: Path, accept: AcceptLicense | None) -> None:
    """Ask for the terms once.

    Raises:
        BackboneError: they are not accepted, or cannot be read.
    """
    if is_accepted(entry, cache):
        return
    try:
        text = plain_text(terms.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BackboneError(f"cannot read the terms of {entry.name}: {error}") from None
    if accept is None or not accept(entry.name, text):
        raise BackboneError(not_accepted(entry))
    write_json(
        _record(entry, cache),
        {"name": entry.name, "licence": entry.licence, "accepted_at": datetime.now(UTC).isoformat()},
    )


def not_accepted(entry: CatalogueEntry) -> str:
    """The message for a model whose terms were not accepted."""
    return (
        f"{entry.name} comes under the {entry.licence}, which you have not accepted; run: "
        f"rh-connector model pull {entry.name} --accept-license (or set backbone.accept_license)"
    )


def _record(entry: CatalogueEntry, cache: Path) -> Path:
    return cache / "licences" / f"{entry.name}.json"


_BLOCKS = frozenset(
    ["p", "div", "li", "h1", "h2", "h3", "h4", "h5", "h6", "br", "tr", "section", "article", "ul", "ol"]
)
_HIDDEN = frozenset(
    [
        "script",
        "style",
        "head",
        "template",
        "svg",
        "nav",
        "header",
        "footer",
        "button",
        "noscript",
        "devsite-footer-linkboxes",
    ]
)


class _Text(HTMLParser):
    """The readable text of a page; of ``<article>`` alone where there is one."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.article: list[str] = []
        self._hidden = 0
        self._article = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        if tag == "article":
            self._article += 1
        if tag in _BLOCKS:
            self._add("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        if tag == "article":
            self._article = max(0, self._article - 1)
        if tag in _BLOCKS:
            self._add("\n")

    def handle_data(self, data: str) -> None:
        self._add(re.sub(r"\s+", " ", data))

    def _add(self, text: str) -> None:
        if self._hidden:
            return
        self.parts.append(text)
        if self._article:
            self.article.append(text)


def plain_text(html: str) -> str:
    """A page of HTML as text: what a reader sees, without menus."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    text = "".join(parser.article or parser.parts)
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line != "-")).strip()
