"""Checks against outputs recorded from the original implementations, one module per area.

python -m parity FOLDER --areas cacher,pruner
"""
