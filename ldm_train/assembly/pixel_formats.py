"""The format of pictures that are not 8-bit RGB, from the settings; and what such pictures do not go with."""

from ldm_train.assembly.map_conditions import map_specs
from ldm_train.data.cache.manifest import PIXELS_KEY
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.pixels import PixelSettings
from ldm_train.settings.schema.training import SourceSettings, TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.safe_json import Json
from ldm_train.util.text import format_value

IDENTITY = "ldm_train.autoencoders.autoencoder.IdentityAutoencoder"
MEASURED = (1, 3)  # channels of pictures that networks for RGB can see


def read_pixel_format(settings: PixelSettings) -> PixelFormat | None:
    """Return the format in which pictures are read as they are stored; None for 8-bit RGB.

    Raises:
        ValueError: the settings contradict each other.
    """
    if settings.channels is None:
        for name, value, default in (("bits", settings.bits, 8), ("range", settings.range, None)):
            if value != default:
                raise ValueError(
                    f"pixels.{name}={format_value(value)} needs pixels.channels, for without it all pictures are "
                    "converted to RGB with 8 bits"
                )
        return None
    if settings.range is None:
        return PixelFormat(settings.channels, settings.bits)
    low, high = settings.range
    given = f"pixels.range=[{low:g},{high:g}]"
    if low >= high:
        raise ValueError(f"{given} must be a value and a larger one")
    if settings.bits < 32 and not 0 <= low < high <= 2**settings.bits - 1:
        raise ValueError(
            f"{given} does not fit whole numbers of {settings.bits} bits, from 0 to {2**settings.bits - 1}; "
            "set pixels.bits=32"
        )
    return PixelFormat(settings.channels, settings.bits, low, high)


def fill_channels(part: Part | None, pixels: PixelFormat | None) -> Part | None:
    """Return an autoencoder in which the identity has as many channels as the pictures, if nothing else is set."""
    if part is None or pixels is None or part.target != IDENTITY or part.get("channels") is not None:
        return part
    return part.with_values(channels=pixels.channels)


def refuse_pixels(config: EncodeSettings | TrainSettings, pixels: PixelFormat | None) -> None:
    """Raise if pictures that are not 8-bit RGB would be rounded, or go with conditions that need RGB.

    Raises:
        ValueError: it names the setting to change.
    """
    if pixels is None or config.autoencoder is None:
        return
    if config.autoencoder.target == IDENTITY and pixels.bits > 8 and config.dtype != "float32":
        raise ValueError(
            f"dtype={config.dtype} rounds the values of pixels.bits={pixels.bits} with autoencoder=identity; "
            "set dtype=float32"
        )
    for spec in map_specs(config):
        if spec.encoded or not spec.in_file:
            raise ValueError(
                f"the condition {spec.name} is read as 8-bit RGB, and does not go with pixels.channels; leave it out"
                + (", or give the map encoded=false" if spec.in_file else "")
            )


def refuse_measuring(config: TrainSettings, pixels: PixelFormat | None) -> None:
    """Raise if pictures that are neither grey nor RGB would be measured by networks for RGB while training.

    Raises:
        ValueError: they would.
    """
    if pixels is None or pixels.channels in MEASURED or config.metrics.every is None:
        return
    named = [name for name in ("features", "clip_score") if getattr(config, name) is not None]
    if named:
        words = " ".join(f"{name}=null" for name in named)
        raise ValueError(
            f"{' and '.join(named)} take pictures of 1 or 3 channels, and pixels.channels={pixels.channels}; set {words}"
        )


def refuse_evaluating(pixels: PixelSettings) -> None:
    """Raise if a run draws pictures that are neither grey nor RGB, of which there is no metric.

    Raises:
        ValueError: it does.
    """
    if pixels.channels is not None and pixels.channels not in MEASURED:
        raise ValueError(
            f"the run draws pictures of {pixels.channels} channels, and evaluate measures grey and RGB ones; "
            "draw with `ldm-train sample`, which writes arrays, and measure these"
        )


def refuse_rgb_command(config: SourceSettings | TrainSettings, what: str) -> None:
    """Raise if something that reads and writes 8-bit RGB is asked for on other pictures.

    Raises:
        ValueError: it is.
    """
    if config.pixels.channels is not None:
        raise ValueError(
            f"{what} is for 8-bit RGB, and does not go with pixels.channels={config.pixels.channels}; leave it out"
        )


def describe_pixels(pixels: PixelFormat | None) -> dict[str, Json]:
    """Return what stored pictures depend on of their format, in plain values; nothing for 8-bit RGB."""
    return {} if pixels is None else {PIXELS_KEY: pixels.identity}


def restore_pixels(pictures: Json) -> PixelSettings:
    """Return the settings of the pictures that a cache was made of, from its encoding of pictures."""
    found = pictures.get(PIXELS_KEY) if isinstance(pictures, dict) else None
    if not isinstance(found, dict):
        return PixelSettings()
    bounds = None if found.get("low") is None else [found["low"], found.get("high")]
    return PixelSettings.model_validate({"channels": found.get("channels"), "bits": found.get("bits"), "range": bounds})


def words_of_pixels(settings: PixelSettings) -> list[str]:
    """Return the words of `encode` that read pictures so; none for 8-bit RGB."""
    if settings.channels is None:
        return []
    bounds = [] if settings.range is None else [f"pixels.range=[{settings.range[0]:g},{settings.range[1]:g}]"]
    return [f"pixels.channels={settings.channels}", f"pixels.bits={settings.bits}", *bounds]
