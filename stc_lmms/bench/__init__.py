"""Cost model and latency measurements."""
