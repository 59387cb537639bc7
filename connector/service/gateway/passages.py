"""Sentences that answer, added to hits' ``highlight``: those that the heads looked at while they ranked."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from connector.documents import RankedHit, RerankResult, clean_text, field_texts
from connector.sentences import shown_sentences
from connector.service.gateway.parsing.raw_json import edited, scan_object
from connector.service.gateway.parsing.search_body import member_edits

__all__ = ["Passages", "Tags"]

_KEY = "highlight"


@dataclass(frozen=True, slots=True)
class Tags:
    """How a search wants highlights: as its own ``highlight`` says, else as both clusters have it by default.

    Attributes:
        before, after: of each sentence.
        as_html: texts are escaped for HTML.
    """

    before: str = "<em>"
    after: str = "</em>"
    as_html: bool = False

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """From a search's body. What the cluster will refuse anyway counts as not there."""
        own = body.get(_KEY)
        own = own if isinstance(own, Mapping) else {}
        before, after = _first(own.get("pre_tags")), _first(own.get("post_tags"))
        if before is None or after is None:
            before, after = "<em>", "</em>"
        return cls(before, after, own.get("encoder") == "html")

    def around(self, sentence: str) -> str:
        """The sentence, marked."""
        text = clean_text(sentence)
        return f"{self.before}{html.escape(text) if self.as_html else text}{self.after}"


class Passages:
    """The sentences of one answer's hits.

    Args:
        sources: the documents of the ranked hits, in the cluster's order; None where one is unknown.
        result: of them.
        fields: that were read; empty: all text fields.
        tags: around each sentence.
        first: place of the first ranked hit; those before it keep theirs, and nobody read them.
    """

    def __init__(
        self,
        sources: Sequence[Mapping[str, Any] | None],
        result: RerankResult,
        fields: Sequence[str],
        tags: Tags,
        first: int = 0,
    ) -> None:
        self._sources = {first + at: source for at, source in enumerate(sources)}
        self._hits: Mapping[int, RankedHit] = {first + hit.index: hit for hit in result.hits}
        self._fields = fields
        self._tags = tags

    def added(self, at: int, hit: str) -> str:
        """The JSON text of the hit in place ``at``, with the sentences of each field that has no highlight yet."""
        found = self._of(at)
        if not found:
            return hit
        members, _ = scan_object(hit)
        own = members.get(_KEY)
        if own is None or not isinstance(own.value, dict):
            return edited(hit, member_edits(hit, members, {_KEY: json.dumps(found)}))
        more = {name: json.dumps(texts) for name, texts in found.items() if name not in own.value}
        inner = hit[own.start : own.end]
        marked = edited(inner, member_edits(inner, scan_object(inner)[0], more))
        return edited(hit, member_edits(hit, members, {_KEY: marked}))

    def _of(self, at: int) -> dict[str, list[str]]:
        """Field → its sentences."""
        source, ranked = self._sources.get(at), self._hits.get(at)
        if source is None or ranked is None or not ranked.looked_at:
            return {}
        texts = field_texts(source, self._fields)
        found: dict[str, list[str]] = {}
        # A line break stands between fields, and no sentence goes over one.
        whole = "\n".join(text for _, text in texts)
        for _, (start, end) in shown_sentences(whole, ranked.looked_at):
            begin = 0
            for name, text in texts:
                if begin <= start < begin + len(text):
                    found.setdefault(name, []).append(self._tags.around(whole[start:end]))
                begin += len(text) + 1
        return found


def _first(tags: Any) -> str | None:
    return tags[0] if isinstance(tags, list) and tags and isinstance(tags[0], str) else None
