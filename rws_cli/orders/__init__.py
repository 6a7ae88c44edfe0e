"""Orders: a score for each open position; the highest are committed first."""
