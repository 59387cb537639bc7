"""Does reranking help on your queries? Measured on a judged folder laid out as BEIR does.

python examples/evaluate_own_judgments.py [FOLDER]

FOLDER holds corpus.jsonl, queries.jsonl and qrels/test.tsv. The bundled one has twelve queries, far too few to tell.
"""

import sys
from pathlib import Path

from connector.evaluation.collections import load_collection
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.evaluation.measures import MEASURES, mean, per_query
from connector.reranker import Reranker
from connector.settings import load_settings

settings = load_settings()
collection = load_collection(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "data/handbook")
with open_collection_engine(collection, settings) as engine:
    windows = first_stage(collection, settings.rerank.window, engine=engine)

reranker = Reranker.from_settings(settings)
rankings = {"first stage": {query: [hit.id for hit in hits] for query, hits in windows.items()}, "reranked": {}}
for query, hits in windows.items():
    result = reranker.rerank(collection.queries[query], hits)
    rankings["reranked"][query] = [hit.id for hit in result.hits]

print(f"{len(collection.queries)} queries")
for name, ranking in rankings.items():
    values = per_query(MEASURES, collection.qrels, ranking)
    print(f"{name:12}", *(f"{measure} {mean(values[measure]):.3f}" for measure in MEASURES))
