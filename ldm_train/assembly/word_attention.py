"""Which words drew what: the cross-attention of a prompt's words while a picture is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.token_pieces import group_words, split_text
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.networks.attention_maps import AttentionRecorder, list_attending

START, REST = "start token", "end and padding"  # what a network attends to that is no word


@dataclass(frozen=True)
class WordAttention:
    """The attention to each word of a prompt, and to the tokens around them; at each position all of it sums to 1.

    Args:
        words: START, the words, REST.
        maps: for each (height, width) of the network's feature maps, (steps, words, height, width).
    """

    words: Sequence[str]
    maps: dict[tuple[int, int], Tensor]

    @property
    def combined(self) -> Tensor:
        """The mean of all resolutions at the largest one, (steps, words, height, width)."""
        largest = max(self.maps)
        return torch.stack([interpolate(one, largest, mode="nearest-exact") for one in self.maps.values()]).mean(0)


class WordRecorder:
    """Record the attention to the words of prompts; it is a sampler's callback, to be used in a `with` block.

    Raises:
        ValueError: the network attends to no words.
    """

    def __init__(self, network: nn.Module, conditioner: nn.Module, prompts: Sequence[str], *, setting: str) -> None:
        if not isinstance(conditioner, TextEncoder) or not attends_to_words(network, conditioner):
            kind = type(conditioner if not isinstance(conditioner, TextEncoder) else network).__name__
            raise ValueError(f"{setting}: this run does not attend to words, as far as is known of {kind}")
        self.words = [list_words(conditioner, prompt) for prompt in prompts]
        length = conditioner.chunks * conditioner.context_length
        groups = torch.zeros(len(prompts), length, max(map(len, self.words)))
        for row, words in enumerate(self.words):
            groups[row, :, len(words) - 1] = 1  # what is in no word is among the rest
            for column, (_, places) in enumerate(words[:-1]):
                groups[row, places] = 0
                groups[row, places, column] = 1
        self.recorder = AttentionRecorder(network, groups)

    def __enter__(self) -> "WordRecorder":
        self.recorder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.recorder.__exit__(None, None, None)

    def __call__(self, number: int, x_s: Tensor, estimate: Estimate) -> None:
        self.recorder.close_step()

    @property
    def attention(self) -> list[WordAttention]:
        """What was recorded of each prompt."""
        shapes = sorted({shape for step in self.recorder.steps for shape in step})
        return [
            WordAttention(
                [word for word, _ in words],
                {shape: torch.stack([step[shape][row, : len(words)] for step in self.recorder.steps]) for shape in shapes},
            )
            for row, words in enumerate(self.words)
        ]


def attends_to_words(network: nn.Module, conditioner: nn.Module) -> bool:
    """Return whether a network attends to words, as far as is known of it."""
    return isinstance(conditioner, TextEncoder) and bool(list_attending(network))


def list_words(encoder: TextEncoder, prompt: str) -> list[tuple[str, list[int]]]:
    """Return the words of a prompt that are read, each with the places of its tokens; START first, REST, with none, last."""
    inner, found, index = encoder.context_length - 2, [(START, [0])], 0
    for word, pieces in group_words(split_text(encoder, prompt)[: encoder.capacity]):
        places = [n // inner * encoder.context_length + 1 + n % inner for n in range(index, index + len(pieces))]
        found.append((word, places))
        index += len(pieces)
    return [*found, (REST, [])]
