"""Keeps work moving: plans shards, takes back lost ones, finishes jobs, rings doorbells."""
