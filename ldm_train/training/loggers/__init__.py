"""The dashboards, one file each; `dashboards.py` has their common interface."""
