"""Measures: the order of generation, and the summary of a run."""
