"""Find the tokens that a run was trained on, which are in its captions."""

import torch
from torch import Tensor

from ldm_train.data.cache.reader import open_caches
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import note


def read_learned(config: TrainSettings) -> Tensor | None:
    """Return the numbers of all tokens in the captions of a run's caches; None if they cannot be read."""
    if config.cache is None:
        return None
    try:
        rows = [cache.caption_rows for cache in open_caches(config.cache)]
    except (ValueError, OSError) as error:
        note(f"note: the captions of the run cannot be read, so all tokens of the vocabulary are compared: {error}")
        return None
    return torch.cat([row.gather(torch.arange(len(row)))["tokens"].long().unique() for row in rows]).unique()
