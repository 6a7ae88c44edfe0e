"""Computes numbers from records: of a completion, a run, or several runs. Nothing here prints or draws."""
