"""Measurements: ``python -m benchmarks.NAME`` prints a table and writes ``runs/benchmarks/NAME.json``."""
