"""Embed images and captions in one space, to measure how well they match."""

import torch
from torch import Tensor, nn

from ldm_train.features.clip_models import format_clip_name, load_clip, read_clip_preprocessing
from ldm_train.features.preprocessing import round_to_levels


class CLIPPair(nn.Module):
    """Embeddings of images and of texts in one space (Radford et al. 2021, arXiv 2103.00020), of length 1, float32.

    Args:
        model: open_clip's name of the architecture, such as "ViT-B-32-quickgelu".
        pretrained: open_clip's tag of the weights ("openai"), downloaded, or a local file.

    Attributes:
        name: of architecture and weights, part of metrics' names.
        size: of an embedding.

    Raises:
        ValueError: the architecture or the weights are not known, or cannot be loaded.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        super().__init__()
        import open_clip

        self.model, self.size = load_clip(model, pretrained, setting="clip_score")
        self.square = read_clip_preprocessing(self.model)
        self.name = format_clip_name(model, pretrained)
        self._tokenize = open_clip.get_tokenizer(model)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, size) of images (B, 3, H, W) in [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.model.encode_image(self.square(round_to_levels(images)), normalize=True).float()  # type: ignore[operator]

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Return the embeddings (B, size) of texts; a text longer than the model's context is cut."""
        device = self.square.mean.device
        with torch.autocast(device.type, enabled=False):
            return self.model.encode_text(self._tokenize(texts).to(device), normalize=True).float()  # type: ignore[operator]

    def train(self, mode: bool = True) -> "CLIPPair":
        """Stay in evaluation mode: the model is frozen."""
        return super().train(False)
