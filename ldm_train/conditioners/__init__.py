"""Turn captions and class names into the conditioning of a network."""
