"""Write and find checkpoints."""
