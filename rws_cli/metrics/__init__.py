"""Metrics of texts: modules of `evaluate`, and what they compute with."""
