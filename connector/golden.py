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

REFERENCE_QUERIES = (
    GOLDEN_QUERY,
    "How do I undo the last commit in git?",
    "effects of interest rates on house prices",
    "Which vitamin deficiency causes scurvy?",
)
REFERENCE_DOCUMENTS = (
    *GOLDEN_DOCUMENTS,
    "git reset --soft HEAD~1 takes back the newest commit and keeps its changes staged.",
    "A branch in git is a movable name for a commit; git branch NAME makes one.",
    "When borrowing becomes dearer, fewer families can afford a mortgage, and homes sell for less.",
    "Sailors without fresh fruit fell ill: their gums bled because they lacked ascorbic acid.",
    "Vitamin D is made in the skin by sunlight and helps the body to take up calcium.",
)
"""Every query is scored with every document. Where one changes, scores that were stored are of no use."""
