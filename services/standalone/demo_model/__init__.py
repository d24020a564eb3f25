"""Trains `digits-sd`, a Stable Diffusion pipeline small enough to draw its ten classes on two CPU cores."""

import shared.vision  # noqa: F401  (must be imported before diffusers, which every module here imports)
