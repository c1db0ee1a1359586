"""`ldm-train encode`: captioned pictures to a latent cache; what it holds already is kept, and what is gone is dropped."""

from omegaconf import DictConfig

from ldm_train.assembly.encode_cache import encode_cache


def run(config: DictConfig) -> int:
    """Encode; return the exit code."""
    return encode_cache(config)
