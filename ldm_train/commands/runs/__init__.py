"""List the runs below a folder."""
