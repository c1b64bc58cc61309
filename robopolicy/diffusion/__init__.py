"""Noise levels, denoisers and samplers."""

from robopolicy.diffusion import samplers

__all__ = ["samplers"]
