"""Average the trained weights, store the averages, and reconstruct averages of other lengths."""
