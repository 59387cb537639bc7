"""The bodies of searches and their answers: read, and changed in the few places where they have to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.heads.pins import finite_score
from connector.service.gateway.parsing.raw_json import Edit, NotPlainJson, Span, edited, scan_list, scan_object
from connector.service.numbers import json_number

__all__ = [
    "Mark",
    "SearchAnswer",
    "member_edits",
    "page_edits",
    "read_answer",
    "scan_answer",
    "scan_body",
    "texts_body",
    "without_own_ext",
]

# What an answer tells of hits beside their text, and how many; a search for texts does without.
_ANSWER_KEYS = frozenset(
    ["aggs", "aggregations", "highlight", "suggest", "script_fields", "fields", "docvalue_fields", "stored_fields"]
    + ["explain", "profile", "version", "seq_no_primary_term", "stats", "from", "size", "_source", "sort"]
    + ["track_scores", "track_total_hits"]
)
# Scores of reranked hits lie between 1 and 2, those behind the window below; also as a client's 32-bit floats.
_LEAST_RERANKED, _MOST_RERANKED = 1.000001, 1.999999
_MOST_BEHIND = 0.999999


def scan_body(text: str) -> dict[str, Span]:
    """The members of a search's body, which may be empty.

    Raises:
        NotPlainJson: this is no JSON object, or not only one.
    """
    if not text.strip():
        return {}
    members, end = scan_object(text)
    if text[end:].strip():
        raise NotPlainJson("there is more than one JSON object")
    return members


def member_edits(text: str, members: Mapping[str, Span], values: Mapping[str, str]) -> list[Edit]:
    """Edits that set members of the object in ``text`` to JSON texts."""
    edits = [Edit(members[name].start, members[name].end, value) for name, value in values.items() if name in members]
    added = [f"{json.dumps(name)}:{value}" for name, value in values.items() if name not in members]
    if added:
        at = text.index("{") + 1
        edits.append(Edit(at, at, ",".join(added) + ("," if members else "")))
    return edits


def without_own_ext(text: str) -> str:
    """The body without ``ext.rerank``, which Elasticsearch refuses; the same text where there is none.

    Raises:
        NotPlainJson: this is no JSON object.
    """
    members = scan_body(text)
    ext = members.get("ext")
    if ext is None or not isinstance(ext.value, dict) or "rerank" not in ext.value:
        return text
    inner, _ = scan_object(text, ext.start)
    kept = ",".join(f"{json.dumps(name)}:{text[s.start : s.end]}" for name, s in inner.items() if name != "rerank")
    return edited(text, member_edits(text, members, {"ext": f"{{{kept}}}"}))


def texts_body(text: str, size: int, fields: Sequence[str]) -> str:
    """A search for the same hits that brings nothing but their documents.

    Args:
        text: the search's body.
        size: how many hits, from the first on.
        fields: that are read; empty: all.
    """
    kept = {name: text[span.start : span.end] for name, span in scan_body(text).items() if name not in _ANSWER_KEYS}
    source = json.dumps(list(fields)) if fields else "true"
    values = {**kept, "from": "0", "size": str(size), "_source": source, "track_total_hits": "false"}
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in values.items()) + "}"


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """A search's answer: where its parts stand in the text.

    Attributes:
        end: of the whole object.
        list_span: the list of hits.
        hits: its elements.
        max_score: None where the answer does not tell it.
    """

    end: int
    list_span: Span
    hits: Sequence[Span]
    max_score: Span | None

    def keys(self) -> list[tuple[Any, Any]]:
        """What tells the hits apart."""
        return [(hit.value.get("_index"), hit.value.get("_id")) for hit in self.hits]

    def repeats_hits(self) -> bool:
        """Whether one hit comes more than once: a hybrid query's parts, which nothing normalized and joined.

        Among them stand marks of Neural Search, which are no hits. Hits without an id are not compared.
        """
        named = [key for key in self.keys() if key[1] is not None]
        return len(set(named)) < len(named)

    def scores(self) -> list[float] | None:
        """The first stage's, all finite; None where not every hit has one."""
        found = [_number(hit.value.get("_score")) for hit in self.hits]
        known = [finite_score(score) for score in found if score is not None]
        return known if len(known) == len(found) else None


@dataclass(frozen=True, slots=True)
class Mark:
    """What an answer says of its reranking."""

    reranked: bool
    reason: str | None
    window: int
    query: str

    def to_json(self) -> str:
        """The value of the key ``rerank``, in ASCII."""
        return json.dumps(
            {"reranked": self.reranked, "reason": self.reason, "window": self.window, "query": self.query},
            separators=(",", ":"),
        )


def read_answer(text: str) -> SearchAnswer:
    """Read a whole body.

    Raises:
        NotPlainJson: there are no hits in it.
    """
    answer, end = scan_answer(text, 0)
    if answer is None or text[end:].strip():
        raise NotPlainJson("the answer is none to a search")
    return answer


def scan_answer(text: str, start: int) -> tuple[SearchAnswer | None, int]:
    """The answer at ``start``, and where it ends; None where it has no hits, as an error has none.

    Raises:
        NotPlainJson: there is no object.
    """

    def read_hits(text: str, start: int) -> tuple[Any, int]:
        return scan_object(text, start, {"hits": scan_list})

    members, end = scan_object(text, start, {"hits": read_hits} if text.find('"hits"', start) >= 0 else None)
    outer = members.get("hits")
    inner = outer.value.get("hits") if outer is not None and isinstance(outer.value, dict) else None
    if not isinstance(inner, Span) or "error" in members:
        return None, end
    hits: list[Span] = inner.value
    if not all(isinstance(hit.value, dict) for hit in hits):
        return None, end
    assert outer is not None
    return SearchAnswer(end, inner, hits, outer.value.get("max_score")), end


def page_edits(
    text: str,
    answer: SearchAnswer,
    order: Sequence[int],
    page: slice,
    mark: Mark,
    scores: Sequence[float] | None = None,
    frame: SearchAnswer | None = None,
    added: Callable[[int, str], str] | None = None,
) -> list[Edit]:
    """Edits that leave of an answer one page, in a new order, marked.

    Args:
        text: holds the answer.
        answer: with all hits.
        order: places of the hits, best first; each once.
        page: which of them are shown.
        mark: the last key of the answer.
        scores: the reranker's, of the first hits in ``order``, falling; then scores are rewritten.
        frame: another answer, in whose text the hits are put; None: this one.
        added: makes of a hit's place and text the text that is shown.
    """
    frame = answer if frame is None else frame
    hits = [text[answer.hits[at].start : answer.hits[at].end] for at in order[page]]
    if added is not None:
        hits = [added(at, hit) for at, hit in zip(order[page], hits, strict=True)]
    edits = []
    if scores is not None:
        shown = _shown_scores(answer, order, scores)
        hits = [_with_score(hit, score) for hit, score in zip(hits, shown[page], strict=True)]
        if frame.max_score is not None and shown and shown[0] is not None:
            edits.append(Edit(frame.max_score.start, frame.max_score.end, repr(shown[0])))
    edits.append(Edit(frame.list_span.start, frame.list_span.end, f"[{','.join(hits)}]"))
    edits.append(Edit(frame.end - 1, frame.end - 1, f',"rerank":{mark.to_json()}'))
    return edits


def _shown_scores(answer: SearchAnswer, order: Sequence[int], scores: Sequence[float]) -> list[float | None]:
    shown: list[float | None] = []
    lowest = _MOST_RERANKED
    for score in scores:
        lowest = min(lowest, max(_LEAST_RERANKED, json_number(1 + score)))
        shown.append(lowest)
    lowest = _MOST_BEHIND
    for at in order[len(scores) :]:
        own = answer.hits[at].value.get("_score")
        if isinstance(own, int | float) and 0 <= own < float("inf"):
            lowest = min(lowest, json_number(own / (1 + own)))
            shown.append(lowest)
        else:
            shown.append(None)
    return shown


def _with_score(hit: str, score: float | None) -> str:
    if score is None:
        return hit
    members, _ = scan_object(hit)
    return edited(hit, member_edits(hit, members, {"_score": repr(score)}))


def _number(score: Any) -> float | None:
    # Java writes what is beyond all numbers as a word.
    if score in ("Infinity", "-Infinity"):
        return float(score)
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) and score == score else None
