"""Turn the bytes of a picture into pixels: headers, decoding, colour, crops, masks."""
