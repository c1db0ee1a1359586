"""Extract features of pictures, by which metrics compare sets of pictures."""
