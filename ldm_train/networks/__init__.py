"""Networks to train: from noisy latents, a timestep and conditioning to an output. No diffusion, no files."""
