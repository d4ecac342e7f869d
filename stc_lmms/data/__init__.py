"""Downloading, locating and checking benchmark data; knows no benchmark by name."""
