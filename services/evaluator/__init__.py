"""A trained encoder in; a report on real test images out."""
