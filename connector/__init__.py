"""rh-connector: rerank OpenSearch and Elasticsearch hits with what a frozen LLM knows.

Names are imported when they are asked for: ``import connector`` loads no library.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime reads it at its import, and would tell its maker what runs here. Nothing of ours reports to anybody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from connector.documents import Document, Hit, RerankResult
    from connector.errors import RhConnectorError
    from connector.evaluation.answering.evaluation import Evaluation
    from connector.evaluation.evaluate import EvaluateOptions, evaluate
    from connector.reranking.reranker import Reranker
    from connector.sections import Settings
    from connector.settings import load_settings
    from connector.training.train import TrainOptions, TrainResult, train

__all__ = [
    "Document",
    "EvaluateOptions",
    "Evaluation",
    "Hit",
    "RerankResult",
    "Reranker",
    "RhConnectorError",
    "Settings",
    "TrainOptions",
    "TrainResult",
    "__version__",
    "evaluate",
    "load_settings",
    "train",
]

__version__ = "0.1.0"

# Name -> its module, as in the imports above.
_MODULES = {
    "Document": "connector.documents",
    "EvaluateOptions": "connector.evaluation.evaluate",
    "Evaluation": "connector.evaluation.answering.evaluation",
    "Hit": "connector.documents",
    "RerankResult": "connector.documents",
    "Reranker": "connector.reranking.reranker",
    "RhConnectorError": "connector.errors",
    "Settings": "connector.sections",
    "TrainOptions": "connector.training.train",
    "TrainResult": "connector.training.train",
    "evaluate": "connector.evaluation.evaluate",
    "load_settings": "connector.settings",
    "train": "connector.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
