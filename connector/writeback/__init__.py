"""What brings reranked results back: OpenSearch's search pipeline, Elasticsearch's inference endpoint."""
