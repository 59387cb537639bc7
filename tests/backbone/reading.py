"""What the runtimes' tests share: one request read by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from connector.backbone.prompt.tail import Tail, TokenIds
from connector.backbone.runtime import EncodedDocument, Head, ReadRequest, Runtime
from connector.heads.needs import Needs
from connector.sections import Layout


def token_ids(*texts: Sequence[int]) -> list[TokenIds]:
    """Token ids as runtimes take them: int32 arrays."""
    return [np.array(ids, dtype=np.int32) for ids in texts]


def read_one(
    runtime: Runtime,
    prefix: Sequence[int],
    tail: Tail,
    documents: Sequence[EncodedDocument],
    heads: Sequence[Head],
    *,
    layout: Layout,
) -> npt.NDArray[np.float32]:
    """Rows of one request: float32 [heads, groups, document tokens]."""
    (found,) = runtime.read(prefix, [ReadRequest(tail, documents, Needs(tuple(heads)))], layout=layout)
    return found.rows
