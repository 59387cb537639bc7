"""The gateway: searches on their way to the cluster and back, reranked; all other requests as they are."""
