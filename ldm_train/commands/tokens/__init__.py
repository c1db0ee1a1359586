"""`ldm-train tokens`."""
