"""Schedules: how many open positions a step commits, which ones, and which committed tokens are masked again."""
