"""Encoded passages: what encodes them, what stands behind each, and their keys in the document cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import numpy as np

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.passages import Passage
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.runtime import EncodedDocument, Needs, Runtime
from connector.errors import BackboneError
from connector.sections import Layout

__all__ = ["PassageStates", "joined"]

_PROBE_TOKENS = 256


class PassageStates:
    """The states of passages in one LLM. Thread-safe.

    Args:
        runtime: executes the LLM.
        template: the prompt's fixed parts.
        layout: how documents and query are laid out.
        fingerprint: of weights, tokenizer, template and layout: see ``prompt.fingerprint``.
        cache: where states are kept.
    """

    def __init__(
        self, runtime: Runtime, template: PromptTemplate, layout: Layout, fingerprint: str, cache: DocumentCache
    ) -> None:
        self._runtime, self._template, self._layout = runtime, template, layout
        self._fingerprint, self._cache = fingerprint, cache

    def encode(self, passages: Sequence[TokenIds], pool: Needs) -> Iterator[EncodedDocument]:
        """States of token ids that already end with what stands behind a passage; nothing is kept."""
        return self._runtime.encode(self._template.prefix, passages, pool, layout=self._layout)

    def encoded(self, passages: Sequence[Passage], pool: Needs) -> Iterator[tuple[bytes, EncodedDocument]]:
        """Keys and states of passages, in their order; nothing is kept.

        Raises:
            BackboneError: the layout is ``joint``, whose documents cannot be kept; or the LLM failed.
        """
        if self._layout == "joint":
            raise BackboneError("backbone.layout = joint reads all documents in one prompt; set it to solo or late")
        behind = self.behind(self._template.before_query)
        ids = [joined(passage.ids, behind) for passage in passages]
        return zip(self.keys(passages, pool), self.encode(ids, pool), strict=True)

    def keep(self, passages: Sequence[Passage], pool: Needs) -> tuple[int, int]:
        """Encode what the cache does not keep for good.

        Args:
            passages: distinct ones.
            pool: what they are encoded for.

        Returns:
            Passages that were there, and those that were encoded now.

        Raises:
            BackboneError: as ``encoded``.
        """
        keys = self.keys(passages, pool)
        return self._cache.keep(keys, lambda missing: self.encoded([passages[at] for at in missing], pool))

    def missing_tokens(self, passages: Sequence[Passage], pool: Needs) -> int:
        """Tokens of the passages that neither memory nor disk has."""
        keyed = zip(passages, self.keys(passages, pool), strict=True)
        return sum(passage.tokens for passage, key in keyed if not self._cache.knows(key))

    def behind(self, before: Sequence[int]) -> TokenIds:
        """What is encoded behind every passage: of the part before the query all but its last id, which is read."""
        return np.array(before[:-1] if self._layout == "solo" else (), dtype=np.int32)

    def keys(self, passages: Sequence[Passage], pool: Needs, before: Sequence[int] = ()) -> list[bytes]:
        """The document cache's keys of passages that are encoded for a pool."""
        namespace = self._namespace(pool, before)
        return [passage.key(namespace) for passage in passages]

    def seconds_to_encode(self, tokens: int, layers: int | None = None) -> float:
        """About how long so many tokens will take on this machine: two short passes are timed.

        Args:
            tokens: of passages.
            layers: encoded up to so many layers; None: all.
        """
        depth = min(layers or self._runtime.shape.layers, self._runtime.shape.layers) - 1
        # One for each core: that is how many are encoded.
        probes = [np.full(_PROBE_TOKENS, self._template.prefix[0], dtype=np.int32)] * self._runtime.threads
        taken = []
        for _ in range(2):
            started = time.perf_counter()
            for _ in self.encode(probes, Needs(((depth, 0),))):
                pass
            taken.append(time.perf_counter() - started)
        return tokens * min(taken) / (_PROBE_TOKENS * len(probes))

    def _namespace(self, pool: Needs, before: Sequence[int]) -> str:
        # States of every layer serve all pools of the same depth; late ones hold exactly their pool's keys.
        if self._layout == "late":
            depth: object = sorted(set(pool.heads))
        else:
            # The other wording stands behind the passage, and is no part of the fingerprint.
            other = list(before) if tuple(before) == self._template.other_before_query else []
            depth = [pool.depth(self._runtime.shape.layers), *other]
        # Runtimes round differently, and do not read each other's states.
        runtime = f"{type(self._runtime).__name__} {self._runtime.precision}"
        return f"{self._fingerprint} {runtime} {json.dumps(depth)}"


def joined(ids: TokenIds, behind: TokenIds) -> TokenIds:
    """int32 [tokens]: a passage's ids and what is encoded behind it."""
    return np.concatenate((ids, behind)) if len(behind) else ids
