"""Rewards: text → score."""
