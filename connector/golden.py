"""The query whose answer everybody knows: asked wherever a model, a service or a pipeline shows that it works."""

from __future__ import annotations

__all__ = ["GOLDEN_ANSWER", "GOLDEN_DOCUMENTS", "GOLDEN_QUERY"]

GOLDEN_QUERY = "How long do cats sleep each day?"
GOLDEN_DOCUMENTS = (
    "The central bank left its interest rate unchanged at its meeting in June.",
    "A healthy adult cat sleeps between twelve and sixteen hours a day, kittens even longer.",
    "Steel bridges are painted regularly to keep them from rusting.",
)
GOLDEN_ANSWER = 1
"""Place of the document that answers."""
