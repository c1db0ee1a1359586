"""What is trained: networks from noisy latents, a timestep and conditioning to an output. No diffusion, no files."""
