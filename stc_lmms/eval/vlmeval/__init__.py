"""Adapter to VLMEvalKit."""
