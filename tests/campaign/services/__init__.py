"""A service that dies and is started again on the same files."""
