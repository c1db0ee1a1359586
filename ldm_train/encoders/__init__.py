"""Pictures and captions to what a network trains on, and back: autoencoders, latents' scale, conditioners."""
