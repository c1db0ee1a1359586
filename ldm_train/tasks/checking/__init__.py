"""What `check` looks at, and how it tells it."""
