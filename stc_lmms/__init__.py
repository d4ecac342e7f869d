"""Streaming token compression and streaming video benchmarks for lmms-eval."""

__version__ = "0.1.0"
