"""Show how a text encoder splits a text into tokens."""
