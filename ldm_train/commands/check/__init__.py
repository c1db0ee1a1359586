"""Read everything that training will read, measure what it will cost, and list what would go wrong."""
