"""The denoiser: token ids with masks → logits."""
