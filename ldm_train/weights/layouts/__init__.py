"""Map the names of published layouts to the names of this package, and back; one file for each layout."""
