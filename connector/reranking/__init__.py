"""From a query and its hits to the same hits in a better order."""
