"""Draws shards with Stable Diffusion: shard rows in, tar objects out."""
