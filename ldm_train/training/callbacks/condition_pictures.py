"""What drawn examples are conditioned on, as pictures."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.generation import Generation
from ldm_train.training.callbacks.picture_grids import fit_on_white
from ldm_train.types import Given


def depict_conditions(generation: Generation, given: Mapping[str, Given], size: tuple[int, int]) -> list[Tensor]:
    """Return images (B, 3, height, width) uint8 of each condition that can be seen, white for examples without it.

    Args:
        given: what is known of the examples, by the conditions' names.
        size: height and width.
    """

    def decode(raw: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(generation.device.type, enabled=False):
            return generation.autoencoder.decode(raw.to(generation.device).float())

    pictures = []
    for condition in generation.conditions.each:
        one = given[condition.name]
        images = condition.depict(one.values, decode)
        if images is not None:
            row = torch.stack([fit_on_white(image, size) for image in to_display_bytes(images.float()).cpu()])
            row[~one.kept.cpu()] = 255
            pictures.append(row)
    return pictures
