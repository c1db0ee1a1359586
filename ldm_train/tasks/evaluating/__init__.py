"""What `evaluate` measures, and how it tells it."""
