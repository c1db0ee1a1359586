"""Turn captions and class names into the conditioning of a network."""

from ldm_train.conditioners.caption_encoder import CaptionEncoder
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder, clip, small

__all__ = ["CaptionEncoder", "ClassLabels", "TextEncoder", "clip", "small"]
