"""Benchmarks: examples and how completions are graded, one file each."""
