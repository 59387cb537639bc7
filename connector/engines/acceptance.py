"""Which documents an index takes, whichever engine it is."""

from __future__ import annotations

import json

from connector.documents import Document, clean_text

__all__ = ["Refused", "json_of"]

# As Elasticsearch and OpenSearch have it, so that what is indexed in one can be indexed in the others.
_LONGEST_ID = 512


class Refused(Exception):
    """A document that cannot be indexed, and why."""


def json_of(document: Document) -> str:
    """The fields as JSON.

    Raises:
        Refused: the id or the fields cannot be indexed.
    """
    if not document.id:
        raise Refused("the id is empty")
    if clean_text(document.id) != document.id:
        raise Refused("the id is not Unicode text")
    if len(document.id.encode()) > _LONGEST_ID:
        raise Refused(f"the id is longer than {_LONGEST_ID} bytes")
    try:
        return json.dumps(dict(document.fields), default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"the fields are no JSON ({error})") from None
