"""The benchmarks: one module each, a registry, and the code they share. Imports nothing heavy."""
