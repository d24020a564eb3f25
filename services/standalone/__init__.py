"""Everything on one machine without Docker: the same processes against SQLite and a folder, workers polling."""
