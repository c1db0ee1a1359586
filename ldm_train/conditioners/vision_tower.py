"""The vision tower of an open_clip model: images to their embeddings."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ldm_train.util.text import first_line


class VisionTower(nn.Module):
    """A frozen vision tower, which embeds images of any size.

    Args:
        tower: maps images (B, 3, side, side) to embeddings (B, D).
        side: pixels.
        mean, deviation: per channel, of pixels in [0, 1], by which it expects them to be normalized.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, tower: nn.Module, *, side: int, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.side = side
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, H, W) in [-1, 1], squeezed to squares."""
        square = interpolate(images, (self.side, self.side), mode="bicubic", antialias=True).clamp(-1, 1)
        embeddings: Tensor = self.tower(((square + 1) / 2 - self.mean) / self.deviation)
        return embeddings


def read_embedding_width(model: str) -> int:
    """Return D of an open_clip model's embeddings.

    Raises:
        ValueError: open_clip has no such model.
    """
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise ValueError(
            f"model={model} of a picture condition is not an open_clip model; `open_clip.list_models()` lists them"
        )
    return int(config["embed_dim"])


def check_weights(model: str, weights: str) -> None:
    """Raise if a model has no weights of this name, and there is no such file.

    Raises:
        ValueError: it names the weights that there are.
    """
    if not Path(weights).is_file() and (model, weights) not in open_clip.list_pretrained():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(
            f"weights={weights} of a picture condition is neither a file nor weights of {model} (available: {tags})"
        )


def open_vision_tower(model: str, weights: str) -> VisionTower:
    """Return the vision tower of an open_clip model.

    Args:
        weights: open_clip's name of them, which are downloaded, or a file of open_clip's.

    Raises:
        ValueError: open_clip has no such model, or the weights are not known or cannot be loaded.
    """
    read_embedding_width(model)
    check_weights(model, weights)
    try:
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are then replaced
            loaded = open_clip.create_model(model, pretrained=weights)
    except Exception as error:  # whatever the download or the file's reader raises
        raise ValueError(
            f"cannot load weights={weights} of {model} for a picture condition: {first_line(error)}; without a network, "
            "give a file that was downloaded before"
        ) from error
    config = open_clip.get_model_preprocess_cfg(loaded)
    size = config["size"]
    return VisionTower(
        loaded.visual, side=size if isinstance(size, int) else size[0], mean=config["mean"], deviation=config["std"]
    )
