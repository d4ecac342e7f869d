"""Adapters to evaluation harnesses; nothing imports them."""
