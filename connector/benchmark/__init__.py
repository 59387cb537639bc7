"""Speed against peers and against the floor, on this machine, in one run."""
