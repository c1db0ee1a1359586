"""Metrics: pictures, or their features, to numbers."""
