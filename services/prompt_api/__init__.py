"""HTTP in, rows out: it validates, records work and shows it, and never draws, trains or imports torch."""
