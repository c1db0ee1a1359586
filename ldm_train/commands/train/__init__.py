"""Train a noise predictor."""
