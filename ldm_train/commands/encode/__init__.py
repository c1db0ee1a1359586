"""Encode captioned pictures into a latent cache."""
