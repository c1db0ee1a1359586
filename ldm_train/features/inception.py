"""Load the Inception network of published Fréchet distances from torch-fidelity."""

import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ldm_train.util.text import first_line


def load_inception(weights: str | None) -> nn.Module:
    """Return a network that maps uint8 images (B, 3, H, W) to a tuple with its pooled features (B, 2048).

    Args:
        weights: torch-fidelity's file; None downloads it once.

    Raises:
        ValueError: torch-fidelity is not installed, or the weights cannot be loaded.
    """
    if find_spec("torch_fidelity") is None:
        raise ValueError(
            "features=inception needs the package torch-fidelity: pip install 'ldm-train[inception]'; "
            "features=efficientnet_lite0 needs nothing more"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = Path(weights) if weights is not None else _downloaded(URL_INCEPTION_V3)
    try:
        torch.load(
            path, map_location="cpu", weights_only=True
        )  # raises for a file with code, which torch-fidelity would run
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are then replaced
            return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"features.weights={path} cannot be read as torch-fidelity's Inception ({first_line(error)}); "
            f"give the file of {URL_INCEPTION_V3}"
        ) from error


def _downloaded(url: str) -> Path:
    """Download a file once, and return its path in torch's cache."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise ValueError(
            f"features=inception: {path.name} cannot be downloaded ({error}); download {url} where there is a network, "
            "and set features.weights=FILE"
        ) from error
    return path
