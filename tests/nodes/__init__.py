"""Real search nodes for tests, put together from the artifacts that the projects publish for Maven.

They run the same server jars as the distributions, on 127.0.0.1, without security: ``python -m tests.nodes --help``.
"""
