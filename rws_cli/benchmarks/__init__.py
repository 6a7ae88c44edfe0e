"""Benchmarks: prompts, and how an answer is marked. One file each."""
