"""What scores and cached documents are bound to."""

from __future__ import annotations

import hashlib
import json

from connector.backbone.prompt.template import PromptTemplate
from connector.settings import Layout

__all__ = ["fingerprint", "template_hash"]

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
