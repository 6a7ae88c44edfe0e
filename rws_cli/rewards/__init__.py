"""Rewards: score texts."""
