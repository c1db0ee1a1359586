"""Turn captions and class names into the conditioning of a network."""

from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder, clip, small

__all__ = ["ClassLabels", "TextEncoder", "clip", "small"]
