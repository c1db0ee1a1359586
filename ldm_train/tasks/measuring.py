"""What `train` measures of sets of pictures, from the groups `features` and `clip_score` and the block `metrics`."""

from omegaconf import DictConfig

from ldm_train.tasks.assemble import build_recipe
from ldm_train.tasks.config import build
from ldm_train.tasks.without_effect import measures
from ldm_train.training.callbacks.metrics import Measuring
from ldm_train.training.real_features import KeptFeatures


def build_measuring(config: DictConfig) -> Measuring | None:
    """The frozen networks that measure, and how pictures are drawn for them; None where nothing is measured.

    Raises:
        ValueError: the weights of a network are not to be had.
    """
    if not measures(config):
        return None
    features, pair = (None if config.get(name) is None else build(config[name]) for name in ("features", "clip_score"))
    recipe = build_recipe(config, steps=config.metrics.steps, seed=config.metrics.seed)
    return Measuring(features, pair, recipe, config.metrics.count)


def kept_features(config: DictConfig, content: str) -> KeptFeatures | None:
    """Where the true pictures' features stay; None for pictures that are encoded on the fly."""
    return None if config.cache is None else KeptFeatures.beside(config.cache, content)
