"""Schedules: how many of the open positions a step commits, and which; and which committed ones it masks again."""
