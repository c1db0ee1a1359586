"""The tags of captions that a run draws anew at each step, and what that costs where the text encoder is frozen."""

from functools import partial

import torch

from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.unconditional import Unconditional
from ldm_train.data.batches.tag_draws import TaggedCaptions, Tags
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.own_tokens import tokenize


def draw_tags(config: TrainSettings, text_encoder: torch.nn.Module) -> TaggedCaptions | None:
    """Return what draws the tags of captions; None if they stay as they are.

    Raises:
        ValueError: the captions are names of classes, or are not read.
    """
    tags = Tags(config.tags.shuffle, config.tags.keep, config.tags.dropout)
    if not tags.drawn:
        return None
    if isinstance(text_encoder, ClassLabels | Unconditional):
        raise ValueError(
            f"tags.shuffle={str(tags.shuffle).lower()} and tags.dropout={tags.dropout:g} are for captions that a text "
            f"encoder reads, and {type(text_encoder).__name__} reads no tags; leave them out"
        )
    return TaggedCaptions(tags, partial(tokenize, text_encoder))  # type: ignore[arg-type]


def describe_tag_cost(text_encoder: torch.nn.Module, *, batch_size: int) -> str:
    """Return a note on what drawn tags cost with a frozen text encoder."""
    count = sum(parameter.numel() for parameter in text_encoder.parameters())
    return (
        f"tags are drawn anew at each step, so the embeddings of the captions as they were are not used: the frozen text "
        f"encoder ({count:,} parameters) stays in memory and encodes {batch_size} captions in each step; tags.shuffle=false "
        "tags.dropout=0 takes embeddings from the cache"
    )
