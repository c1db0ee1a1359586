"""Class names to conditioning: the condition of a network that is told no text."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.safe_json import Json


class ClassLabels(nn.Module):
    """A trained vector for each class (as Dhariwal and Nichol 2021, arXiv 2105.05233, section 3.1), and one for none.

    A caption is a class's name; the empty one stands for no class, so captions are dropped and guidance works as with text.

    Args:
        classes: their names, distinct.
        width: D of the vector.

    Raises:
        ValueError: no class, an empty name, or one twice.
    """

    trained = True
    context_width = None
    capacity = 1

    def __init__(self, *, classes: Sequence[str] | None, width: int = 128) -> None:
        super().__init__()
        names = list(classes or [])
        if not names or "" in names or len(set(names)) < len(names):
            raise ValueError(f"text_encoder.classes={names} must be distinct names; encoding takes them from the source")
        self.classes = names
        self.vector_width = width
        self.numbers = {"": 0} | {name: number for number, name in enumerate(names, start=1)}
        self.embedding = nn.Embedding(len(names) + 1, width)

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that decides the tokens of a caption."""
        return {"kind": "class_labels", "classes": [*self.classes]}

    @property
    def computation(self) -> dict[str, Json]:
        """Everything but trained weights that decides the conditioning of a caption."""
        return {**self.identity, "width": self.vector_width}

    def tokenize(self, captions: list[str]) -> Tensor:
        """The classes' numbers, (B, 1) int64; 0 is none.

        Raises:
            ValueError: a caption that is no class.
        """
        unknown = sorted(set(captions) - self.numbers.keys())
        if unknown:
            known = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            raise ValueError(f"{unknown[0]!r} is no class of this model; it knows {known}")
        return torch.tensor([[self.numbers[caption]] for caption in captions])

    def count(self, captions: list[str]) -> list[int]:
        """One each: a caption is one label, of which nothing is cut."""
        return [1] * len(captions)

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Conditioning with a vector (B, D)."""
        return Conditioning(vector=self.embedding(captions.tokens[:, 0]))
