"""How one request is followed: its id, and its line in the access log."""
