"""Benchmarks for the performance tables, run as modules: ``python -m benchmarks.affinity``."""
