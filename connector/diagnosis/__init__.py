"""What is wrong with machine, model, cluster and write-back, and how to mend it. Nothing is changed."""

from __future__ import annotations

from connector.diagnosis.checking import diagnose, exit_code
from connector.diagnosis.findings import Finding

__all__ = ["Finding", "diagnose", "exit_code"]
