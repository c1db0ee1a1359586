"""`ldm-train encode`: encode captioned pictures into a latent cache; rows that it has are kept, removed pictures dropped."""

from ldm_train.assembly.encode_cache import encode_cache
from ldm_train.settings.schema.using import EncodeSettings


def run(settings: EncodeSettings) -> int:
    """Encode the pictures of the source and return the exit code."""
    return encode_cache(settings)
