"""Remasking: what looks at finished blocks and masks some of their tokens again (sampler.remasking)."""
