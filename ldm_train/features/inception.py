"""The Inception network of the published Fréchet distances, where torch-fidelity and its weights are to be had."""

import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def load_inception(weights: str | None) -> nn.Module:
    """Its pooled features, (B, 2048) in a tuple, of uint8 pictures.

    Args:
        weights: torch-fidelity's file; None: downloaded once.

    Raises:
        ValueError: torch-fidelity is not installed, or there is no way to get the weights.
    """
    if find_spec("torch_fidelity") is None:
        raise ValueError(
            "features=inception needs the package torch-fidelity: pip install 'ldm-train[inception]'; "
            "features=efficientnet_lite0 needs nothing more"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = Path(weights) if weights is not None else _downloaded(URL_INCEPTION_V3)
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # the package's own reader would run code that is in a file
        with torch.random.fork_rng(devices=[]):  # what the weights replace is drawn at first
            return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"features.weights={path} cannot be read as torch-fidelity's Inception ({str(error).splitlines()[0]}); "
            f"give the file of {URL_INCEPTION_V3}"
        ) from error


def _downloaded(url: str) -> Path:
    """Where torch keeps what it downloads."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise ValueError(
            f"features=inception: {path.name} cannot be downloaded ({error}); download {url} where there is a network, "
            "and give it: features.weights=FILE"
        ) from error
    return path
