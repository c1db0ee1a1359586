"""`ldm-train encode`: captioned pictures to a latent cache; what it holds already is kept, and what is gone is dropped."""

from ldm_train.assembly.encode_cache import encode_cache
from ldm_train.settings.schema.using import EncodeSettings


def run(config: EncodeSettings) -> int:
    """Encode; return the exit code."""
    return encode_cache(config)
