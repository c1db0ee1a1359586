"""No condition: captions are not read, and the network learns the pictures alone."""

import torch
from torch import Tensor, nn

from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.safe_json import Json


class Unconditional(nn.Module):
    """A conditioner without tokens and vector, for networks that draw pictures like the data's, whatever is asked for."""

    trained = True
    context_width = None
    vector_width = None
    capacity = 1

    @property
    def identity(self) -> dict[str, Json]:
        """Nothing but its kind decides the tokens of a caption."""
        return {"kind": "unconditional"}

    @property
    def computation(self) -> dict[str, Json]:
        """Nothing but its kind decides the conditioning of a caption."""
        return self.identity

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return zeros, (B, 1) int64."""
        return torch.zeros(len(captions), 1, dtype=torch.int64)

    def count(self, captions: list[str]) -> list[int]:
        """Return 0 for each caption, which is not read."""
        return [0] * len(captions)

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Return no conditioning."""
        return Conditioning()
