"""What the latents of a cache keep of its pictures, measured on a sample while encoding, and a warning if that is little.

`encode` writes it next to the cache's own files, which do not name it: neither the fingerprint nor any row depends on it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path

from ldm_train.util.safe_json import Json, read_json

QUALITY = "quality.json"
RECONSTRUCTIONS = "reconstructions.png"
FILES = frozenset({QUALITY, RECONSTRUCTIONS})  # in a cache's folder, in addition to what its manifest names
LOW_PSNR = 25.0  # dB; below it, colours and outlines differ visibly
LARGE_SIDE = 256  # pixels, from which on Stable Diffusion's autoencoder is a good choice


@dataclass(frozen=True)
class Quality:
    """What latents keep of pictures.

    Args:
        psnr: of a sample of pictures that were encoded and decoded, dB; None without an autoencoder.
        sample: the PSNR of each of them, by key.
        deviation: of the latents after scaling, which should be near 1; None if it was not measured.
        cut_away: the mean share of a picture's area that the crop cuts away.
        reconstructions: the picture of some of them above what they are decoded to, if there is one.
    """

    psnr: float | None = None
    sample: dict[str, float] = field(default_factory=dict)
    deviation: float | None = None
    cut_away: float = 0.0
    reconstructions: Path | None = None

    def text(self) -> str:
        """Return the content of its file."""
        return json.dumps(self.measured, indent=2) + "\n"

    @property
    def measured(self) -> dict[str, Json]:
        """The values without the path."""
        values = asdict(self)
        del values["reconstructions"]
        return values


NOT_MEASURED = Quality()


def read_quality(folder: Path) -> Quality:
    """Return what a cache's folder says of its quality; nothing is known if the file is missing or damaged."""
    try:
        quality = parse_quality(read_json(folder / QUALITY))
    except (OSError, ValueError):
        return NOT_MEASURED
    picture = folder / RECONSTRUCTIONS
    return replace(quality, reconstructions=picture if picture.is_file() else None)


def parse_quality(content: Json) -> Quality:
    """Return the quality in the content of a file; values of other types than `encode` writes are left out."""
    values = content if isinstance(content, dict) else {}
    sample = values.get("sample")
    rows = sample.items() if isinstance(sample, dict) else ()
    return Quality(
        _number(values.get("psnr")),
        {key: value for key, one in rows if (value := _number(one)) is not None},
        _number(values.get("deviation")),
        _number(values.get("cut_away")) or 0.0,
    )


def choose_worst(qualities: Sequence[Quality]) -> Quality:
    """Return the quality with the lowest PSNR; the first if none has any."""
    return min(qualities, key=lambda one: inf if one.psnr is None else one.psnr, default=NOT_MEASURED)


def warn_of_low_psnr(
    psnr: float | None, *, image_size: int | None, weights: object, source: Sequence[str] = (), crop: Sequence[str] = ()
) -> list[str]:
    """Return a warning with three ways out if decoded pictures are far from the originals.

    Args:
        image_size: side of the pictures, pixels.
        weights: the value of `autoencoder.weights`, if there is one.
        source: words of a command that name the source; empty if it is unknown.
        crop: words that choose the crop, for commands that take one; empty for the usual one.
    """
    if psnr is None or psnr >= LOW_PSNR:
        return []
    words = " ".join([*(source or ["source.path=DIR"]), *([f"image_size={image_size}"] if image_size else [])])
    encode = " ".join(["ldm-train encode", words, *crop])
    published = "sd_vae_ft_mse" if (image_size or 0) >= LARGE_SIDE else "pretrained autoencoder.weights=PATH"
    adapted = "" if weights is None else f" autoencoder.weights={weights}"
    return [
        f"pictures that are encoded and decoded again have a PSNR of {psnr:.1f} dB, below {LOW_PSNR:.0f} dB: colours and "
        "outlines are lost, and no network trained on these latents can draw better than this. What to do:\n"
        f"  another autoencoder:         {encode} cache=caches/other autoencoder={published}\n"
        f"  adapt one to these pictures: ldm-train train_autoencoder {words} run_dir=autoencoders/adapted{adapted}\n"
        f"                               {encode} cache=caches/adapted autoencoder=pretrained "
        "autoencoder.weights=autoencoders/adapted/autoencoder\n"
        f"  pixels, for small sides:     {encode} cache=caches/pixels autoencoder=identity"
    ]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
