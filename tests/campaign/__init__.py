"""What happens to rh-connector when things go wrong, tried many times: ``python -m tests.campaign``.

Not part of the suite: it takes hours. Each trial is a row of docs/reliability.md: tried, survived, lost.
"""
