"""The page at ``/`` and ``/ui``: a search, before and after reranking, side by side."""
