"""Does reranking help on your queries? Measured on a judged folder laid out as BEIR does.

python examples/evaluate_own_judgments.py [FOLDER]

FOLDER holds corpus.jsonl, queries.jsonl and qrels/test.tsv. The bundled one has twelve queries, far too few to tell.
"""

import sys
from pathlib import Path

from connector import EvaluateOptions, evaluate, load_settings

folder = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "data/handbook"
# Heads above the shipped router's are not scored, and nothing is timed: seconds instead of minutes.
measured = evaluate(folder, load_settings(), EvaluateOptions(layers=20, timed=0))

print(f"{measured.report.queries} queries")
for system in measured.report.systems:
    if system.name in ("first-stage", "routed+first-stage"):
        print(f"{system.name:20}", *(f"{measure} {value:.3f}" for measure, value in system.measures.items()))
print(*measured.notes)
