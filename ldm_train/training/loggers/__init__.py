"""The dashboards beside the JSON lines, a file each; `dashboards.py` has what they have in common."""
