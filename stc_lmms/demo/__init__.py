"""What runs anywhere: the demo checkpoint."""
