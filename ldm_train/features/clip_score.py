"""How well pictures go with captions, by the two towers of an open_clip model."""

import open_clip
import torch
from torch import Tensor, nn

from ldm_train.features.clip_models import clip_name, clip_square, load_clip
from ldm_train.features.preprocessing import levels


class CLIPPair(nn.Module):
    """Embeddings of images and of texts in one space (Radford et al. 2021, arXiv 2103.00020), of length 1, float32.

    Args:
        model: open_clip's name of the architecture, such as "ViT-B-32-quickgelu".
        pretrained: open_clip's tag of the weights ("openai"), downloaded, or a local file.

    Attributes:
        name: of architecture and weights, as it stands in metrics' names.
        size: of an embedding.

    Raises:
        ValueError: an unknown architecture or weights, or no way to get them.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        super().__init__()
        self.model, self.size = load_clip(model, pretrained, setting="clip_score")
        self.square = clip_square(self.model)
        self.name = clip_name(model, pretrained)
        self._tokenize = open_clip.get_tokenizer(model)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Of images (B, 3, H, W) in [-1, 1], (B, size)."""
        with torch.autocast(images.device.type, enabled=False):
            return self.model.encode_image(self.square(levels(images)), normalize=True).float()  # type: ignore[operator]

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Of texts, cut where they are longer than the model reads, (B, size)."""
        device = self.square.mean.device
        with torch.autocast(device.type, enabled=False):
            return self.model.encode_text(self._tokenize(texts).to(device), normalize=True).float()  # type: ignore[operator]

    def train(self, mode: bool = True) -> "CLIPPair":
        """Nothing is ever trained here."""
        return super().train(False)
