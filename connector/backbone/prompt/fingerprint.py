"""What scores and cached documents are bound to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from connector.backbone.prompt.template import PromptTemplate
from connector.checkpoints.shape import BackboneShape
from connector.sections import Layout

__all__ = ["BackboneIdentity", "fingerprint", "template_hash"]

# Raised whenever a change of layout makes other scores: head sets and caches must not survive it.
_LAYOUT_VERSION = 1


def fingerprint(checkpoint_digest: str, template: PromptTemplate, layout: Layout) -> str:
    """What a head set, a router or a cached document is bound to: weights, tokenizer, template and layout."""
    record = [checkpoint_digest, _segments(template), [layout, _LAYOUT_VERSION]]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _segments(template: PromptTemplate) -> list[tuple[int, ...]]:
    return [template.prefix, template.before_query, template.after_query, template.separator]


def template_hash(template: PromptTemplate) -> str:
    """SHA-256 of the template's token ids."""
    return hashlib.sha256(json.dumps(_segments(template)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BackboneIdentity:
    """All that head sets and routers are checked against; no weights are needed for it.

    Attributes:
        fingerprint: see ``fingerprint``.
        template_hash: see ``template_hash``.
        shape: of the LLM.
    """

    fingerprint: str
    template_hash: str
    shape: BackboneShape

    @classmethod
    def of(
        cls, checkpoint_digest: str, template: PromptTemplate, layout: Layout, shape: BackboneShape
    ) -> BackboneIdentity:
        """The identity of a checkpoint under a template, in a layout."""
        return cls(fingerprint(checkpoint_digest, template, layout), template_hash(template), shape)
