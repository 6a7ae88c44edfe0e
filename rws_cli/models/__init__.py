"""Models: masked diffusion models, from token ids with masks to logits."""
