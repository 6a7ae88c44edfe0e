"""Judges, which decide which of two completions is better; runs/judging.py applies them to whole runs."""
