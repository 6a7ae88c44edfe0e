"""Judges: which of two answers is better? pairs.py asks them about whole runs."""
