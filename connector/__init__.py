"""rh-connector: rerank OpenSearch and Elasticsearch hits with the attention heads of a frozen LLM."""

__version__ = "0.1.0"
