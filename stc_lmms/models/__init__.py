"""Streaming models with a common interface."""
