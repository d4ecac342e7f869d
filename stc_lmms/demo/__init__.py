"""What ships of StreamWorld: the demo checkpoint and its checksums."""
