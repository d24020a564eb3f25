"""A training row in; an encoder, its card and its curves out."""
