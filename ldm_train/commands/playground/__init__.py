"""Serve a page in the browser on which to draw with trained runs."""
