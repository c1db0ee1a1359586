"""Named tensors in the layouts that others publish: dict to dict, importing no network."""
