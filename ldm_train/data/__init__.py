"""From captioned pictures to batches: sources, their inspection, transforms, the latent cache, and the datamodules."""
