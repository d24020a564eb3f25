"""Finished datasets read back: their manifests, and their shards through a cache on disk."""
