"""Noise levels, denoisers and samplers."""

from robopolicy.diffusion import samplers as samplers
