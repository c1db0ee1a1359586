"""Train a KL autoencoder."""
