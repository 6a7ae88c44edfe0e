"""Guidance: what changes logits before the order reads them."""
