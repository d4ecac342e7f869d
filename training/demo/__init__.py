"""StreamWorld, the demo model trained on it, and builders of tiny random checkpoints."""
