"""Look at every picture of a source before anything is encoded: headers first, then full decoding."""
