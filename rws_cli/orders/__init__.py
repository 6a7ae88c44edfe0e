"""Orders: a score for each open position. The highest scores are committed first."""
