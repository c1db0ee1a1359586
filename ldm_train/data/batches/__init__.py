"""Choose the examples of each batch, and serve the batches to the Trainer."""
