"""The likelihood of texts under a masked diffusion model."""
