"""A run directory as a record: its config, its lock, how it is continued, and how it is read back."""
