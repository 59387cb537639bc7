"""Rerank what a search found: a JSON answer of OpenSearch or Elasticsearch, or a cluster that is asked now.

python examples/rerank_opensearch_hits.py                                  # the answer in examples/data
curl -s …/_search | python examples/rerank_opensearch_hits.py QUERY -      # from standard input
RH_ENGINE__KIND=opensearch RH_ENGINE__URL=http://localhost:9200 RH_ENGINE__INDEX=handbook \
  python examples/rerank_opensearch_hits.py QUERY                          # what the cluster finds now
"""

import json
import sys
from pathlib import Path

from connector import Hit, Reranker, load_settings
from connector.engines.open_engine import open_engine

query = sys.argv[1] if len(sys.argv) > 1 else "what do I have to do on my last day in the office"
answer = sys.argv[2] if len(sys.argv) > 2 else str(Path(__file__).parent / "data/opensearch_answer.json")

settings = load_settings()
if settings.engine.url is not None:
    with open_engine(settings) as engine:
        hits = engine.search(query, settings.rerank.window)
else:
    found = json.loads(sys.stdin.read() if answer == "-" else Path(answer).read_text(encoding="utf-8"))
    hits = [Hit(hit["_id"], hit["_score"], hit["_source"]) for hit in found["hits"]["hits"]]

# Hits carry the first stage's scores: both rankings are fused.
result = Reranker.from_settings(settings).rerank(query, hits)
print(f"{query}: {'reranked' if result.reranked else result.reason}")
for place, ranked in enumerate(result.hits, 1):
    print(f"{place}. (was {ranked.first_stage_rank})  {ranked.id}  {hits[ranked.index].fields['title']}")
