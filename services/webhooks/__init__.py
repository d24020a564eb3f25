"""Tells users' servers that a job ended: takes messages from the outbox, signs them and posts them."""
