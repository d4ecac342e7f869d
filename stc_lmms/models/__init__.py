"""Streaming models behind one interface."""
