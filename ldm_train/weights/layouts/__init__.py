"""Published layouts of weights: one file for each, which maps its names and shapes to those of this package and back.

Weights come in by two steps, and leave by the same two in reverse order:
1. `published_parts` recognizes a layout by its names and renames the tensors to one layout for each part: diffusers' for
   the U-Net and the autoencoder, open_clip's or transformers' for the text encoder. A `rename_…` function gives the names.
2. A `map_…` function gives a table from each tensor of the target to the `Piece` that makes it.
An `infer_…` function returns the architecture that the tensors' shapes show.
"""
