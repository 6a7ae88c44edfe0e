"""Metrics of completions, one file each."""
