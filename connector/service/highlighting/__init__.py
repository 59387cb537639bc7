"""What OpenSearch's ``semantic`` highlighter asks of a remote model: the sentences that answer."""
