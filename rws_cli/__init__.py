"""rws: run and compare decoding experiments on masked diffusion language models."""

__version__ = "0.1.0"
