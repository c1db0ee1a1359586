"""Measure a run while it trains: held-out losses, and metrics of sets of pictures."""
