"""Judges: which of two answers is better? contests.py asks them about whole runs."""
