"""Training: one loop, and the two stages that run it."""
