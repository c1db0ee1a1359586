"""Low-rank adapters as named tensors: their files, layouts and names."""
