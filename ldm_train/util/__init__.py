"""The ground floor: files written whole, and folders that are ours. Imports nothing of the package, and no torch."""
