"""Training: one loop, and what is passed into it."""
