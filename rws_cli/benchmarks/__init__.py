"""Benchmarks: prompts, and how an answer is graded. One file each."""
