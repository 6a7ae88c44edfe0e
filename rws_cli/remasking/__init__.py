"""Remasking of finished blocks: some of their tokens are masked and decoded again."""
