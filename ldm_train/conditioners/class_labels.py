"""Class names as the condition: each class has a trained vector, and no text is read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.safe_json import Json


class ClassLabels(nn.Module):
    """A trained vector for each class (Dhariwal and Nichol 2021, arXiv 2105.05233, section 3.1), and one for no class.

    A caption is the name of a class. The empty caption is no class, so dropped captions and guidance work as with text.

    Args:
        classes: their names, distinct.
        width: D of the vector.

    Raises:
        ValueError: there is no class, or names are empty or not distinct.
    """

    trained = True
    context_width = None
    capacity = 1

    def __init__(self, *, classes: Sequence[str] | None, width: int = 128) -> None:
        super().__init__()
        names = list(classes or [])
        if not names or "" in names or len(set(names)) < len(names):
            raise ValueError(
                f"text_encoder.classes={names} must be distinct names; `ldm-train encode` sets them from the source"
            )
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
        """Return the classes' numbers, (B, 1) int64; 0 is no class.

        Raises:
            ValueError: a caption is not the name of a class.
        """
        unknown = sorted(set(captions) - self.numbers.keys())
        if unknown:
            known = ", ".join(self.classes[:20]) + (", …" if len(self.classes) > 20 else "")
            raise ValueError(f"{unknown[0]!r} is not a class of this model; its classes are {known}")
        return torch.tensor([[self.numbers[caption]] for caption in captions])

    def count(self, captions: list[str]) -> list[int]:
        """Return 1 for each caption, which is one label."""
        return [1] * len(captions)

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Return conditioning with a vector (B, D)."""
        return Conditioning(vector=self.embedding(captions.tokens[:, 0]))
