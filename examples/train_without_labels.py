"""Train a router on documents alone: queries are made of titles, sentences and words.

python examples/train_without_labels.py [CORPUS.jsonl] [ROUTER.onnx]
"""

import sys
from pathlib import Path

from connector import TrainOptions, load_settings, train

corpus = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "data/handbook/corpus.jsonl"
router = sys.argv[2] if len(sys.argv) > 2 else "handbook.onnx"

# Few documents make few queries: enough to see how it goes, too few to rank by.
options = TrainOptions(queries=12, force=True)
trained = train([f"{corpus}:made"], router, load_settings(), options)

metadata = trained.bundle.metadata
print(f"{trained.bundle.path}: {metadata.gains['queries']} queries, probe of layers {metadata.probes[0].layers}")
print(f"use it with: --set router.bundle={router}")
