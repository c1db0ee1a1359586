"""Average the trained weights, store the averages, and rebuild averages of other lengths."""
