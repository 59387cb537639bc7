"""Rerank clients of others, unchanged, against a live service. ``python -m tests.clients`` makes the docs' table."""
