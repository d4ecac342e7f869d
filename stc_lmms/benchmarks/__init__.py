"""Benchmark definitions as pure functions: rows, prompts, scores and summaries. No heavy imports."""
