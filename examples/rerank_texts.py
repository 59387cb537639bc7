"""Rerank texts that you have at hand: no cluster, no settings file.

python examples/rerank_texts.py
"""

from connector import Reranker, load_settings

QUERY = "how do visitors get on the wifi"
TEXTS = [
    "Parking: the garage has eight places for staff and two with a charger.",
    "Coffee machine: when it shows error 12, the water tank sits loosely.",
    "Guest network: the password for visitors stands on the screen at the reception.",
]

# The defaults, unless RH_… variables or a config.yaml here say otherwise.
reranker = Reranker.from_settings(load_settings())
result = reranker.rerank(QUERY, TEXTS)

print(f"{QUERY}?")
for place, hit in enumerate(result.hits, 1):
    print(f"{place}. {hit.score:+.2f}  {TEXTS[hit.index]}")
if not result.reranked:
    # Never an exception: when the LLM fails or is late, the texts come back in their own order.
    print(f"not reranked: {result.reason}")
