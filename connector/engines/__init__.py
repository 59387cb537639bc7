"""Search engines behind one protocol: embedded (tantivy), OpenSearch, Elasticsearch."""
