"""A benchmark of register tokens in diffusion transformers."""

__version__ = "0.1.0"
