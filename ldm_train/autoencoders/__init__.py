"""Encode pictures into latents and decode them: published autoencoders behind one protocol, and the latents' scale."""
