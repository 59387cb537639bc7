"""One query and some texts in, what signals need out: passages, layouts, the document cache and the runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from connector.backbone.batching.scheduler import Scheduler
from connector.backbone.batching.work_queue import SchedulerStatistics
from connector.backbone.caching.counted_cache import CountedStatistics, Lookups
from connector.backbone.caching.document_cache import CacheStatistics, DocumentCache
from connector.backbone.caching.reading_cache import ReadingCache
from connector.backbone.layout_needs import check_needs
from connector.backbone.passage_states import PassageStates, joined
from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.backbone.prompt.joint import joint_prompt
from connector.backbone.prompt.passages import Passage, Passages
from connector.backbone.prompt.tail import Tail, make_tail, solo_tail
from connector.backbone.prompt.template import NOT_APPLICABLE, PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reading import Reading, Rows
from connector.backbone.runtime import DeviceStatistics, EncodedDocument, Needs, Observations, ReadRequest, Runtime
from connector.backbone.similarity import Similarity
from connector.backbone.step_times import Clock
from connector.cancelling import CancelScope
from connector.documents import has_text
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError
from connector.sections import Layout

__all__ = ["EmbeddedForm", "Reader"]

EmbeddedForm = Literal["query", "prompt"]

# Of the instruction and the query together, and of the instruction alone.
_MAX_QUERY_TOKENS, _MAX_INSTRUCTION_TOKENS = 512, 256
# Texts and their token ids that are remembered, beside the document cache: about 17,000 passages of 180 tokens.
_REMEMBERED_BYTES = 64_000_000


class Reader:
    """A frozen LLM that reads documents for queries. Immutable and thread-safe.

    Args:
        runtime: executes the LLM.
        tokenizer: of the same checkpoint.
        template: the prompt's fixed parts.
        layout: ``solo``: each document is read alone, with the query right behind it; ``late``: the tail sees no
            document, only the pooled heads' keys meet its queries; ``joint``: one causal prompt (ICR).
        digest: the checkpoint's digest.
        cache: encoded passages.
        readings: what was read before; None: every query is read anew.
        max_document_tokens: longest passage; longer documents are split evenly.
        max_passages: passages read of one document.
        similarity: an embedding model beside the LLM, where there is one.
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
        max_document_tokens: int = 512,
        max_passages: int = 8,
        similarity: Similarity | None = None,
    ) -> None:
        self._runtime, self._layout, self._digest = runtime, layout, digest
        self._tokenizer, self._template, self._cache = tokenizer, template, cache
        self._identity = BackboneIdentity.of(digest, template, layout, runtime.shape)
        self._states = PassageStates(runtime, template, layout, self._identity.fingerprint, cache)
        self._scheduler = Scheduler(
            cache,
            self._states.encode,
            self._read_together,
            threads=runtime.threads,
            requests_together=runtime.requests_together,
        )
        self._passages = Passages(tokenizer, max_document_tokens, max_passages, _REMEMBERED_BYTES)
        self._readings = ReadingCache(0) if readings is None else readings
        self._similarity = similarity
        self._budget, self._max_passages = max_document_tokens, max_passages
        self._not_applicable = tokenizer.encode_user([NOT_APPLICABLE])[0].ids
        longest = len(template.prefix) + max_document_tokens + len(template.before_query) + _MAX_QUERY_TOKENS
        if layout != "joint" and longest + len(template.after_query) > runtime.shape.max_positions:
            raise BackboneError(
                f"backbone.max_document_tokens = {max_document_tokens} does not fit this LLM's "
                f"{runtime.shape.max_positions} positions; lower it"
            )

    def with_runtime(self, runtime: Runtime) -> Reader:
        """A reader of the same checkpoint, prompt and limits with another runtime, and nothing in its cache.

        Args:
            runtime: of the same LLM.
        """
        return Reader(
            runtime,
            self._tokenizer,
            self._template,
            self._layout,
            self._digest,
            DocumentCache(self._cache.statistics().limit),
            max_document_tokens=self._budget,
            max_passages=self._max_passages,
            similarity=self._similarity,
        )

    @property
    def embedder(self) -> Embedder | None:
        """The embedding model beside the LLM, where there is one."""
        return None if self._similarity is None else self._similarity.embedder

    @property
    def runtime(self) -> Runtime:
        """What executes the LLM."""
        return self._runtime

    @property
    def layout(self) -> Layout:
        """How documents and query are laid out."""
        return self._layout

    @property
    def identity(self) -> BackboneIdentity:
        """What head sets and routers are checked against."""
        return self._identity

    @property
    def fingerprint(self) -> str:
        """What head sets, routers and cached documents are bound to: see ``prompt.fingerprint``."""
        return self._identity.fingerprint

    @property
    def template_hash(self) -> str:
        """SHA-256 of the template's token ids."""
        return self._identity.template_hash

    @property
    def budget(self) -> tuple[int, int]:
        """Most tokens of a passage, most passages of a document."""
        return self._budget, self._max_passages

    def clear_cache(self) -> None:
        """Forget every text, encoded passage and vector in memory, and what was read; what is on disk stays."""
        self._passages.clear()
        self._cache.clear()
        self._readings.clear()
        if self._similarity is not None:
            self._similarity.clear()

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

    def reading_statistics(self) -> CountedStatistics:
        """Counts of the score cache."""
        return self._readings.statistics()

    def lookups(self) -> Mapping[str, Lookups]:
        """Look-ups of every cache that is in use, by its name; see docs/http-api.md."""
        scores = {"scores": self._readings.lookups()} if self._readings else {}
        vectors = {} if self._similarity is None else {"vectors": self._similarity.lookups()}
        texts = {"texts": self._passages.lookups()}
        return {**self._cache.lookups(), **scores, **vectors, **texts, **self.runtime.lookups()}

    def device_statistics(self) -> DeviceStatistics | None:
        """The accelerator's memory, and what of the document cache it copies from; None: the LLM runs without one."""
        found = self.runtime.device_statistics()
        return None if found is None else replace(found, pinned=self._cache.statistics().bytes)

    def scheduler_statistics(self) -> SchedulerStatistics:
        """What waits for the LLM, and how much of it was done together; not of the layout ``joint``."""
        return self._scheduler.statistics()

    def read(
        self,
        query: str,
        texts: Sequence[str],
        needs: Needs,
        *,
        pool: Needs | None = None,
        scope: CancelScope | None = None,
        other_wording: bool = False,
        instruction: str = "",
        most_tokens: int | None = None,
    ) -> Reading:
        """Read documents for a query.

        Args:
            query: the query; over 512 tokens, its beginning counts.
            texts: document texts; an empty one has no passage.
            needs: what is returned. Row groups of the query alone are less work.
            pool: what documents are encoded and cached for (default: ``needs``); must contain ``needs``.
            scope: ends the reading early, between two passages or steps; None: nothing does.
            other_wording: ask with the template's other instruction (for pseudo labels).
            instruction: the caller's own, read before the query (its tokens are among the 512; at most 256) and not
                before "N/A". What is returned is of the query alone.
            most_tokens: of a document; None: as many as its passages may have.

        Raises:
            BackboneError: the LLM failed, a joint prompt is longer than it can take, or the layout cannot give what
                is needed.
            Cancelled: the scope ended. What was encoded stays in the cache.
        """
        scope = scope or CancelScope()
        clock = Clock()
        check_needs(needs, self.layout, self.runtime.shape)
        whole_query = self._tokenizer.encode_user([query])[0].ids
        told = self._tokenizer.encode_user([f"{instruction}\n"])[0].ids if has_text(instruction) else whole_query[:0]
        instruction_ids = told[:_MAX_INSTRUCTION_TOKENS]
        query_ids = whole_query[: _MAX_QUERY_TOKENS - len(instruction_ids)]
        read = texts if most_tokens is None else self._passages.beginnings(texts, most_tokens)
        split = self._passages.of(read)
        clock.lap("tokenize")
        scope.check()
        order, documents = self._laid_out([text.passages for text in split])
        if not order:
            raise BackboneError("no document has any text to read")
        pool = pool or needs
        before = self._template.other_before_query if other_wording else self._template.before_query

        def tail(position: int) -> Tail:
            if self.layout == "solo":
                # One for each passage: its place counts from the passage's end.
                return solo_tail(before[-1], query_ids, len(self._template.prefix), needs.groups, instruction_ids)
            return make_tail(
                before,
                (query_ids, self._not_applicable),
                self._template.after_query,
                position,
                len(self._template.prefix),
                needs.groups,
                instruction_ids,
            )

        # What the rows depend on; the passages' keys hold weights, template, layout and formats.
        read_of = [instruction_ids.tolist(), before, astuple(replace(needs, similarity=False))]
        asked = query_ids.tobytes() + json.dumps(read_of).encode()
        key = self._reading_key(asked, order, pool) if self._readings else b""
        known = self._readings.get(key) if self._readings else None
        if known is not None:
            found, cached, encoded = known, len(order), 0
        elif self.layout == "joint":
            found, cached, encoded = self._read_joint(tail, order, needs, clock, scope)
        else:
            found, cached, encoded = self._read_apart(tail, before, order, needs, pool, clock, scope)
        if self._readings and known is None:
            self._readings.put(key, found)
        near = np.zeros(len(order) if needs.similarity else 0, dtype=np.float32)
        if needs.similarity:
            for own, places in zip(self.similarities(query, read), documents, strict=True):
                near[list(places)] = own
            clock.lap("embed")
        return Reading(
            rows=found.rows,
            states=found.states,
            log_probabilities=found.log_probabilities,
            similarities=near,
            layers=needs.layers,
            groups=needs.groups,
            lengths=np.array([passage.tokens for passage in order], dtype=np.int64),
            heads=needs.heads,
            documents=documents,
            texts=tuple([text.passages for text in split]),
            truncated=tuple(
                own.truncated or len(part) < len(text) for own, part, text in zip(split, read, texts, strict=True)
            ),
            cached=cached,
            encoded=encoded,
            timings_ms=clock.laps,
            query_truncated=len(whole_query) > len(query_ids),
            instruction_truncated=len(told) > len(instruction_ids),
        )

    def similarities(self, query: str, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Cosines of the query and each passage of each text, by the embedding model: float32 [passages] a text.

        Raises:
            BackboneError: the reader has no embedding model.
        """
        return self._beside().of_parts(query, self._parts(texts))

    def missing(self, texts: Sequence[str], pool: Needs, most_tokens: int | None = None) -> list[tuple[int, int]]:
        """Of each text the tokens that would have to be encoded, for no cache has them, and its passages.

        Args:
            texts, pool, most_tokens: see ``read``.
        """
        texts = texts if most_tokens is None else self._passages.beginnings(texts, most_tokens)
        split = [own.passages for own in self._passages.of(texts)]
        return [(self._states.missing_tokens(own, pool), len(own)) for own in split]

    def precompute(self, texts: Sequence[str], pool: Needs) -> tuple[int, int]:
        """Encode documents before anyone asks for them; returns when the cache has them, on disk where it has one.

        Args:
            texts: document texts.
            pool: what documents are encoded for.

        Returns:
            What was there already, and what was made now: distinct passages, and vectors where the pool wants them.

        Raises:
            BackboneError: the layout is ``joint``, whose documents cannot be kept; or the LLM failed.
        """
        order, _ = self._laid_out([text.passages for text in self._passages.of(texts)])
        present, made = self._states.keep(order, pool)
        if pool.similarity:
            near = self._beside().keep(list(chain.from_iterable(self._parts(texts))))
            present, made = present + near[0], made + near[1]
        self._cache.flush()
        return present, made

    def encoded(self, texts: Sequence[str], pool: Needs) -> Iterator[tuple[bytes, EncodedDocument]]:
        """The distinct passages of documents with their keys, encoded as ``precompute`` does; nothing is kept."""
        order, _ = self._laid_out([text.passages for text in self._passages.of(texts)])
        return self._states.encoded(order, pool)

    def embedded(self, texts: Sequence[str]) -> Iterator[tuple[bytes, EncodedDocument]]:
        """The distinct passages' vectors with their keys; nothing is kept. None, where there are no texts."""
        parts = list(chain.from_iterable(self._parts(texts)))
        return self._beside().encoded(parts) if parts else iter(())

    def keys(self, texts: Sequence[str], pool: Needs) -> list[list[bytes]]:
        """The document cache's keys of all that ``precompute`` keeps of each text: passages, then their vectors."""
        states = [self._states.keys(text.passages, pool) for text in self._passages.of(texts)]
        if not pool.similarity:
            return states
        vectors = [self._beside().keys(parts) for parts in self._parts(texts)]
        return [own + near for own, near in zip(states, vectors, strict=True)]

    def seconds_to_encode(self, texts: Sequence[str], layers: int | None = None) -> float:
        """About how long these texts will take on this machine, equal ones once: two short passes are timed.

        Args:
            texts: document texts.
            layers: encoded up to so many layers; None: all.
        """
        distinct = list(dict.fromkeys(texts))
        tokens = sum(passage.tokens for text in self._passages.of(distinct) for passage in text.passages)
        return self._states.seconds_to_encode(tokens, layers)

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
        own = ids if len(ids) else self._not_applicable
        return self.runtime.embed(np.concatenate((np.array(before, dtype=np.int32), own)), layers, len(before))

    def _beside(self) -> Similarity:
        if self._similarity is None:
            raise BackboneError("this needs an embedding model beside the LLM; set router.embedder")
        return self._similarity

    def _parts(self, texts: Sequence[str]) -> list[list[str]]:
        """Of each text its passages, as they stand in it."""
        return [own.parts(text) for text, own in zip(texts, self._passages.of(texts), strict=True)]

    def _laid_out(self, documents: Sequence[Sequence[Passage]]) -> tuple[list[Passage], tuple[tuple[int, ...], ...]]:
        """The passages as they are laid side by side, and where those of each document stand among them.

        Sums over attention depend on the order of their terms, in the last bits. Apart from ``joint``, where the
        order means something, passages are therefore sorted by content and equal ones read once: the same
        documents in any order give the same bits.
        """
        if self.layout == "joint":
            places = iter(range(sum(map(len, documents))))
            own = tuple(tuple([next(places) for _ in document]) for document in documents)
            return [passage for document in documents for passage in document], own
        contents = [[passage.content for passage in document] for document in documents]
        by_content = dict(zip(chain.from_iterable(contents), chain.from_iterable(documents), strict=True))
        order = sorted(by_content)
        place = {content: at for at, content in enumerate(order)}
        return [by_content[content] for content in order], tuple(
            tuple([place[content] for content in own]) for own in contents
        )

    def _read_apart(
        self,
        tail: Callable[[int], Tail],
        before: Sequence[int],
        order: Sequence[Passage],
        needs: Needs,
        pool: Needs,
        clock: Clock,
        scope: CancelScope,
    ) -> tuple[Observations, int, int]:
        keys, behind = self._states.keys(order, pool, before), self._states.behind(before)
        states, encoded = self._scheduler.encode(keys, lambda at: joined(order[at].ids, behind), pool, scope)
        clock.lap("encode")
        # The tail stands right behind the longest passage, as if that one were alone with it. On train queries this
        # did as well as a fixed place behind the token budget, and far better than a place inside of the passages.
        position = len(self._template.prefix) + max(passage.tokens for passage in order)
        found = self._scheduler.read(ReadRequest(tail(position), states, needs), scope)
        clock.lap("read")
        if len(behind) and needs.heads:
            # Attention to the passages themselves, not to what was encoded behind each.
            ends = np.cumsum([passage.tokens + len(behind) for passage in order]) - len(behind)
            columns = [np.arange(end - own.tokens, end) for end, own in zip(ends, order, strict=True)]
            found = replace(found, rows=np.ascontiguousarray(found.rows[:, :, np.concatenate(columns)]))
        return found, len(order) - encoded, encoded

    def _read_together(self, requests: Sequence[ReadRequest]) -> Sequence[Observations]:
        return self.runtime.read(self._template.prefix, requests, layout=self.layout)

    def _reading_key(self, asked: bytes, order: Sequence[Passage], pool: Needs) -> bytes:
        digest = hashlib.blake2b(asked, digest_size=16)
        for key in self._states.keys(order, pool):
            digest.update(key)
        return digest.digest()

    def _read_joint(
        self,
        tail_at: Callable[[int], Tail],
        order: Sequence[Passage],
        needs: Needs,
        clock: Clock,
        scope: CancelScope,
    ) -> tuple[Observations, int, int]:
        names = self._tokenizer.encode_user([f"[{number}] " for number in range(1, len(order) + 1)])
        prompt, columns = joint_prompt(order, [name.ids for name in names], self._template.separator)
        tail = tail_at(len(self._template.prefix) + len(prompt))
        longest = int(tail.positions.max()) + 1
        if longest > self.runtime.shape.max_positions:
            raise BackboneError(
                f"the joint prompt has {longest} tokens, this LLM takes {self.runtime.shape.max_positions}; "
                "lower rerank.window or backbone.max_document_tokens, or use the layout late"
            )
        # One causal prompt is one long document after the prefix.
        encoded = list(self.runtime.encode(self._template.prefix, [prompt], needs, layout=self.layout))
        clock.lap("encode")
        scope.check()
        (found,) = self._read_together([ReadRequest(tail, encoded, needs)])
        clock.lap("read")
        return Observations(np.ascontiguousarray(found.rows[:, :, columns])), 0, len(order)
