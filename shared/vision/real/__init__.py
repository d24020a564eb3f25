"""Readers of real image sets: the user's own copies, by path, in the forms in which they are given out."""
