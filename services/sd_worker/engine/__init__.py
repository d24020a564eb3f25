"""Stable Diffusion with less arithmetic than diffusers' pipeline and the same images up to rounding."""
