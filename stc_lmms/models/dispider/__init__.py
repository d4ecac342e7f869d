"""Dispider."""
