"""Guidance: changes the logits before tokens are proposed and positions scored."""
