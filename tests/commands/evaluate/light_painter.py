"""A painter for which nothing must be loaded, in a file of its own: other processes import it by this name."""

import torch
from torch import Tensor

from ldm_train.commands.evaluate.drawn_pictures import Painter
from ldm_train.settings.schema.using import EvaluateSettings


class Light:
    """Each picture is of one colour, by its prompt and its number."""

    def __call__(self, prompts: list[str], numbers: Tensor, given: object = None) -> Tensor:
        values = torch.tensor([len(prompt) + number for prompt, number in zip(prompts, numbers.tolist(), strict=True)])
        return (values / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def open_light(config: EvaluateSettings) -> Painter:
    return Light()
