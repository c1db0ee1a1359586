"""A run around its training: its directory, its processes, its end, and what can be read of it later."""
