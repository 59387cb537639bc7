"""One query and some texts in, attention rows out: passages, layouts, the document cache and the runtime."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

import numpy as np

from connector.backbone.batching.shared_encoding import SharedEncoding
from connector.backbone.batching.waiting_windows import WaitingWindows
from connector.backbone.caching.document_cache import CacheStatistics, DocumentCache
from connector.backbone.caching.reading_cache import ReadingCache, ReadingStatistics
from connector.backbone.prompt.fingerprint import fingerprint, template_hash
from connector.backbone.prompt.passages import Passage, Passages
from connector.backbone.prompt.tail import GROUPS, make_tail
from connector.backbone.prompt.template import NOT_APPLICABLE, PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reading import Reading, Rows
from connector.backbone.runtime import AskedWindow, EncodedDocument, Head, Runtime, Tail
from connector.backbone.step_times import Clock
from connector.errors import BackboneError
from connector.settings import Layout

__all__ = ["GROUPS", "EmbeddedForm", "Layout", "Passage", "Reader", "Reading", "fingerprint"]

EmbeddedForm = Literal["query", "prompt"]

_MAX_QUERY_TOKENS = 512
_PROBE_TOKENS = 256
# Texts and their token ids that are remembered, beside the document cache: about 17,000 passages of 180 tokens.
_REMEMBERED_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of documents: ids before the query, its own, those behind it; and of which rows."""

    before: tuple[int, ...]
    ids: Sequence[int]
    after: tuple[int, ...]
    whole_tail: bool

    def tail(self, asked: Sequence[Sequence[int]], position: int) -> Tail:
        """The tail of this query and others, or of others in its place."""
        return make_tail(self.before, asked, self.after, position, whole=self.whole_tail)


class Reader:
    """A frozen LLM that reads documents for queries. Thread-safe.

    Args:
        runtime: executes the LLM.
        tokenizer: of the same checkpoint.
        template: the prompt's fixed parts.
        layout: ``block``: each document is encoded alone after the prefix, the tail attends to all; ``late``: the
            tail sees no document, only the pooled heads' keys meet its queries; ``joint``: one causal prompt (ICR).
        digest: the checkpoint's digest.
        cache: encoded passages.
        readings: what was read before; None: every query is read anew.
        not_applicable: what "N/A" got of sets of documents; None: it is read with every query. With it, query and
            N/A are read in a pass each, so that scores do not depend on what is remembered.
        max_document_tokens: longest passage; longer documents are split evenly.
        max_passages: passages read of one document.

    Attributes:
        fingerprint: see ``fingerprint``.
        template_hash: SHA-256 of the template's token ids.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        layout: Layout,
        digest: str,
        cache: DocumentCache,
        *,
        readings: ReadingCache | None = None,
        not_applicable: ReadingCache | None = None,
        max_document_tokens: int = 512,
        max_passages: int = 8,
    ) -> None:
        self.runtime = runtime
        self.layout: Layout = layout
        self.fingerprint = fingerprint(digest, template, layout)
        self.template_hash = template_hash(template)
        self._tokenizer, self._template, self._cache = tokenizer, template, cache
        self._encoding = SharedEncoding(cache, self._encode, at_once=runtime.threads)
        self._reading = WaitingWindows(runtime, template.prefix, late=layout == "late")
        self._passages = Passages(tokenizer, max_document_tokens, max_passages, _REMEMBERED_BYTES)
        self._readings = ReadingCache(0) if readings is None else readings
        self._not_applicable_rows = ReadingCache(0) if not_applicable is None else not_applicable
        self._budget, self._max_passages = max_document_tokens, max_passages
        self._not_applicable = tokenizer.encode_user([NOT_APPLICABLE])[0].ids
        longest = len(template.prefix) + max_document_tokens + len(template.before_query) + _MAX_QUERY_TOKENS
        if layout != "joint" and longest + len(template.after_query) > runtime.shape.max_positions:
            raise BackboneError(
                f"backbone.max_document_tokens = {max_document_tokens} does not fit this LLM's "
                f"{runtime.shape.max_positions} positions; lower it"
            )

    @property
    def budget(self) -> tuple[int, int]:
        """Most tokens of a passage, most passages of a document."""
        return self._budget, self._max_passages

    def clear_cache(self) -> None:
        """Forget every text and encoded passage in memory, and what was read; what is on disk stays."""
        self._passages.clear()
        self._cache.clear()
        self._readings.clear()
        self._not_applicable_rows.clear()

    def close(self) -> None:
        """Write what the cache's disk does not have yet, and let go of it; the reader works on without."""
        self._cache.close()

    @property
    def plan(self) -> Mapping[str, str]:
        """What this machine lets the LLM's runtime do; see ``Runtime.plan``."""
        return self.runtime.plan

    def statistics(self) -> CacheStatistics:
        """Counts of the document cache."""
        return self._cache.statistics()

    def reading_statistics(self) -> ReadingStatistics:
        """Counts of the score cache."""
        return self._readings.statistics()

    def read(
        self,
        query: str,
        texts: Sequence[str],
        heads: Sequence[Head],
        *,
        pool: Sequence[Head] | None = None,
        check: Callable[[], None] = lambda: None,
        other_wording: bool = False,
        whole_tail: bool = True,
    ) -> Reading:
        """Read documents for a query.

        Args:
            query: the query; over 512 tokens, its beginning counts.
            texts: document texts; an empty one has no passage.
            heads: whose attention is returned.
            pool: heads that documents are encoded and cached for (default: ``heads``); must contain ``heads``.
            check: called between steps; may raise to stop.
            other_wording: ask with the template's other instruction (for pseudo labels).
            whole_tail: all ``GROUPS`` of rows; without, the last two, which is less work.

        Raises:
            BackboneError: the LLM failed, or a joint prompt is longer than it can take.
        """
        clock = Clock()
        whole_query = self._tokenizer.encode_user([query])[0].ids
        query_ids = whole_query[:_MAX_QUERY_TOKENS]
        split = self._passages.of(texts)
        clock.lap("tokenize")
        check()
        order = self._order([text.passages for text in split])
        if not order:
            raise BackboneError("no document has any text to read")
        pool = tuple(pool or heads)
        shared = self._template.other_before_query if other_wording else self._template.before_query
        question = _Question(shared, query_ids, self._template.after_query, whole_tail)
        key = self._reading_key(question, order, heads, pool) if self._readings else b""
        known = self._readings.get(key) if self._readings else None
        if known is not None:
            rows, cached, encoded = known, len(order), 0
        elif self.layout == "joint":
            rows, cached, encoded = self._read_joint(question, order, heads, clock, check)
        else:
            rows, cached, encoded = self._read_apart(question, order, heads, pool, clock, check)
        if self._readings and known is None:
            self._readings.put(key, rows)
        place = {} if self.layout == "joint" else {passage.packed: at for at, passage in enumerate(order)}
        counter = iter(range(len(order)))
        return Reading(
            rows=rows,
            lengths=np.array([passage.tokens for passage in order], dtype=np.int64),
            heads=tuple(heads),
            documents=tuple(
                tuple([place[p.packed] if place else next(counter) for p in text.passages]) for text in split
            ),
            texts=tuple([text.passages for text in split]),
            truncated=tuple([text.truncated for text in split]),
            cached=cached,
            encoded=encoded,
            timings_ms=clock.laps,
            query_truncated=len(whole_query) > len(query_ids),
        )

    def precompute(self, texts: Sequence[str], pool: Sequence[Head]) -> tuple[int, int]:
        """Encode documents before anyone asks for them; returns when the cache has them, on disk where it has one.

        Args:
            texts: document texts.
            pool: heads that documents are encoded for.

        Returns:
            Distinct passages that were there already, and those that were encoded now.

        Raises:
            BackboneError: the layout is ``joint``, whose documents cannot be kept; or the LLM failed.
        """
        if self.layout == "joint":
            raise BackboneError("backbone.layout = joint reads all documents in one prompt; set it to block or late")
        order = self._order([text.passages for text in self._passages.of(texts)])
        keys = self._keys(order, pool)
        missing = [at for at, key in enumerate(keys) if not self._cache.has(key)]
        new = [order[at].ids for at in missing]
        states = self.runtime.encode(self._template.prefix, new, pool, late=self.layout == "late")
        for at, state in zip(missing, states, strict=True):
            self._cache.put(keys[at], state)
        self._cache.flush()
        return len(order) - len(missing), len(missing)

    def seconds_to_encode(self, texts: Sequence[str], layers: int | None = None) -> float:
        """About how long these texts will take on this machine, equal ones once: two short passes are timed.

        Args:
            texts: document texts.
            layers: encoded up to so many layers; None: all.
        """
        distinct = list(dict.fromkeys(texts))
        tokens = sum(passage.tokens for text in self._passages.of(distinct) for passage in text.passages)
        depth = min(layers or self.runtime.shape.layers, self.runtime.shape.layers) - 1
        probe = [self._template.prefix[:1] * _PROBE_TOKENS]
        taken = []
        for _ in range(2):
            started = time.perf_counter()
            for _ in self.runtime.encode(self._template.prefix, probe, [(depth, 0)], late=False):
                taken.append(time.perf_counter() - started)
        return tokens * min(taken) / _PROBE_TOKENS

    def embed(self, query: str, layers: Sequence[int], form: EmbeddedForm = "query") -> Rows:
        """Hidden states of the query alone, without any document.

        Args:
            query: the query; over 512 tokens, its beginning counts.
            layers: whose entering states are wanted.
            form: what stands before the query: only the prompt's first token, or the prompt without documents.

        Returns:
            float32 [layers, 2, hidden]: mean over the query's tokens, and its last token's.
        """
        ids = self._tokenizer.encode_user([query])[0].ids[:_MAX_QUERY_TOKENS]
        before = self._template.prefix[:1]
        if form == "prompt":
            before = self._template.prefix + self._template.before_query
        return self.runtime.embed((*before, *(ids or self._not_applicable)), layers, len(before))

    def _order(self, documents: Sequence[Sequence[Passage]]) -> list[Passage]:
        """The passages as they are laid side by side.

        Sums over attention depend on the order of their terms, in the last bits. Apart from ``joint``, where the
        order means something, passages are therefore sorted by content and equal ones read once: the same
        documents in any order give the same bits.
        """
        passages = [passage for document in documents for passage in document]
        if self.layout == "joint":
            return passages
        return sorted({passage.packed: passage for passage in passages}.values(), key=attrgetter("packed"))

    def _read_apart(
        self,
        question: _Question,
        order: Sequence[Passage],
        heads: Sequence[Head],
        pool: tuple[Head, ...],
        clock: Clock,
        check: Callable[[], None],
    ) -> tuple[Rows, int, int]:
        keys = self._keys(order, pool)
        states, encoded = self._encoding.states(keys, lambda at: order[at].ids, pool, check)
        clock.lap("encode")
        # The tail stands right behind the longest passage, as if that one were alone with it. On train queries this
        # did as well as a fixed place behind the token budget, and far better than a place inside of the passages.
        position = len(self._template.prefix) + max(passage.tokens for passage in order)

        def rows_of(*asked: Sequence[int]) -> Rows:
            return self._reading.rows(AskedWindow(question.tail(asked, position), states, heads), check)

        if self._not_applicable_rows:
            key = self._reading_key(replace(question, ids=()), order, heads, pool)
            compared = self._not_applicable_rows.get(key)
            if compared is None:
                compared = rows_of(self._not_applicable)
                self._not_applicable_rows.put(key, compared)
                check()
            # In the order of ``GROUPS``.
            rows = np.stack((rows_of(question.ids), compared), axis=2)
            rows = rows.reshape(len(heads), -1, rows.shape[-1])
        else:
            rows = rows_of(question.ids, self._not_applicable)
        clock.lap("read")
        return rows, len(order) - encoded, encoded

    def _encode(self, passages: Sequence[Sequence[int]], pool: Sequence[Head]) -> Iterator[EncodedDocument]:
        return self.runtime.encode(self._template.prefix, passages, pool, late=self.layout == "late")

    def _keys(self, passages: Sequence[Passage], pool: Sequence[Head]) -> list[bytes]:
        """The cache's keys of passages that are encoded for a pool."""
        # Block states serve every pool of the same depth; late ones hold exactly their pool's keys.
        depth = sorted(set(pool)) if self.layout == "late" else max(layer for layer, _ in pool)
        # Runtimes round differently, and do not read each other's states.
        runtime = f"{type(self.runtime).__name__} {self.runtime.precision}"
        namespace = f"{self.fingerprint} {runtime} {json.dumps(depth)}"
        return [passage.key(namespace) for passage in passages]

    def _reading_key(
        self,
        question: _Question,
        order: Sequence[Passage],
        heads: Sequence[Head],
        pool: Sequence[Head],
    ) -> bytes:
        """What the rows of a reading depend on; the passages' keys hold weights, template, layout and formats."""
        digest = hashlib.blake2b(
            json.dumps([question.before, question.ids, question.whole_tail, heads]).encode(), digest_size=16
        )
        for key in self._keys(order, pool):
            digest.update(key)
        return digest.digest()

    def _read_joint(
        self,
        question: _Question,
        order: Sequence[Passage],
        heads: Sequence[Head],
        clock: Clock,
        check: Callable[[], None],
    ) -> tuple[Rows, int, int]:
        ids: list[int] = []
        columns: list[int] = []
        for number, passage in enumerate(order, 1):
            if ids:
                ids.extend(self._template.separator)
            ids.extend(self._tokenizer.encode_user([f"[{number}] "])[0].ids)
            columns.extend(range(len(ids), len(ids) + passage.tokens))
            ids.extend(passage.ids)
        tail = question.tail((question.ids, self._not_applicable), len(self._template.prefix) + len(ids))
        longest = tail.position + len(tail.shared) + max(map(len, tail.variants))
        if longest > self.runtime.shape.max_positions:
            raise BackboneError(
                f"the joint prompt has {longest} tokens, this LLM takes {self.runtime.shape.max_positions}; "
                "lower rerank.window or backbone.max_document_tokens, or use the layout block"
            )
        # One causal prompt is one long document after the prefix.
        encoded = list(self.runtime.encode(self._template.prefix, [ids], heads, late=False))
        clock.lap("encode")
        check()
        rows = self.runtime.read(self._template.prefix, tail, encoded, heads, late=False)
        clock.lap("read")
        return np.ascontiguousarray(rows[:, :, columns]), 0, len(order)
