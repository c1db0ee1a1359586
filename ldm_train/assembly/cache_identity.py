"""Describe the autoencoder and text encoder of a cache in plain values, as its manifest holds them.

They are built only if the manifest does not know them already."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ldm_train.assembly.map_conditions import describe_maps, map_specs
from ldm_train.assembly.pixel_formats import describe_pixels, read_pixel_format
from ldm_train.data.cache.manifest import TF32_KEY, VERSION_KEY, Manifest, Provenance
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.pictures.decoding import ENCODING_VERSION, background_colour
from ldm_train.settings.composition import build
from ldm_train.settings.schema.listed_parts import change_argument, iterate_parts
from ldm_train.settings.schema.options import Part, read_part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.safe_json import Json
from ldm_train.weights.fingerprint import digest_weights
from ldm_train.weights.tokenizer_place import find_tokenizer

PARTS = {"autoencoder": "vae", "text_encoder": "text_encoder"}  # and their subfolders in a pipeline's folder
CAPTIONS_VERSION: int = 1  # of the code that turns captions into tokens and embeddings
PATHS = ("weights", "tokenizer")  # arguments that are paths, or names on the hub
HERE = "{cache}/"  # begins a path from the cache's folder: a cache holds no absolute one


@dataclass(frozen=True)
class Encoders:
    """An autoencoder and a text encoder as a manifest describes them.

    Args:
        autoencoder, text_encoder: their identities, which rows are named by.
        tf32: whether a GPU rounds to TF32 what it multiplies, which changes the rows.
        parts: how to build them again, by their names: config, and checksum of the files of weights.
    """

    autoencoder: dict[str, Json]
    text_encoder: dict[str, Json]
    parts: dict[str, dict[str, Json]]
    shift: float
    scale: float
    factor: int
    tf32: bool = False

    def pictures(self, config: EncodeSettings | TrainSettings, crop: Crop) -> Provenance:
        """Return everything that the stored moments of a picture depend on, apart from its bytes."""
        return Provenance(
            {
                VERSION_KEY: ENCODING_VERSION,
                "background": "#{:02x}{:02x}{:02x}".format(*background_colour(config.background)),
                "crop": crop.identity,
                "autoencoder": self.autoencoder,
                "dtype": config.dtype,
                **self._rounding,
                **describe_maps(map_specs(config)),
                **describe_pixels(read_pixel_format(config.pixels)),
            }
        )

    @property
    def _rounding(self) -> dict[str, Json]:
        return {TF32_KEY: True} if self.tf32 else {}

    def captions(self) -> Provenance:
        """Return everything that a caption's stored tokens and embeddings depend on, apart from its text."""
        return Provenance({VERSION_KEY: CAPTIONS_VERSION, **self._rounding, **self.text_encoder})

    def made_by(self, config: EncodeSettings | TrainSettings, crop: Crop) -> dict[str, Json]:
        """Return the part of the manifest that says what made the cache."""
        kinds: dict[str, Json] = {
            "pictures": dict(self.pictures(config, crop).settings),
            "captions": dict(self.captions().settings),
        }
        return {
            "image_size": config.image_size,
            "encoding": kinds,
            **self.parts,
            "shift": self.shift,
            "scale": self.scale,
            "factor": self.factor,
        }


def describe_encoders(
    config: EncodeSettings | TrainSettings, manifest: Manifest | None, *, cache: Path, tf32: bool = False
) -> Encoders:
    """Return the encoders' description, from the manifest if settings and weights are the same, else by building them."""
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    parts = {name: describe_part(getattr(config, name), cache=cache, group=name) for name in PARTS}
    if manifest is not None and all(is_same_part(parts[name], getattr(manifest, name)) for name in parts):
        found = manifest.expected_of_a_run
        identities = found["autoencoder"], found["text_encoder"]
        return Encoders(*identities, parts, manifest.shift, manifest.scale, manifest.factor, tf32=tf32)  # type: ignore[arg-type]
    autoencoder, text_encoder = build(config.autoencoder, "autoencoder"), build(config.text_encoder, "text_encoder")
    return Encoders(
        autoencoder.identity,
        text_encoder.identity,
        parts,
        shift=autoencoder.shift,
        scale=autoencoder.scale,
        factor=autoencoder.factor,
        tf32=tf32,
    )


def describe_part(config: Part, *, cache: Path, group: str) -> dict[str, Json]:
    """Return an encoder's settings with paths as seen from the cache, and the checksum of its weights if they are here."""

    def relate(path: str) -> str:
        here = Path(path).is_absolute() or ("/" in path and Path(path).exists())
        return HERE + Path(os.path.relpath(path, cache)).as_posix() if here else path

    digests = [digest for one in iterate_parts(group, config) for digest in digest_part(one, PARTS[group])]
    for name in PATHS:
        config = change_argument(group, config, name, relate)
    return {"config": config.as_plain(), "files": join_digests(digests)}


def digest_part(config: Part, part: str) -> list[str | None]:
    """Return the checksums of an encoder's weights and of its tokenizer, if it has its own; None where they are not here.

    Args:
        part: its subfolder in a pipeline's folder.
    """
    weights, subfolder = config.get("weights"), config.get("subfolder")
    if "tokenizer" not in config.arguments:
        return [digest_weights(weights, subfolder, part=part)]
    return [digest_weights(weights, subfolder), digest_weights(*find_tokenizer(weights, subfolder, config.get("tokenizer")))]


def join_digests(digests: Sequence[str | None]) -> str | None:
    """Return one checksum for several; None if one is not known."""
    known = [digest for digest in digests if digest is not None]
    if len(known) < len(digests):
        return None
    return known[0] if len(known) == 1 else hashlib.sha256("\n".join(known).encode()).hexdigest()


def is_same_part(part: Mapping[str, Json], before: Mapping[str, Json]) -> bool:
    """Return whether an encoder is known to compute what it did when the cache was made."""
    return part["files"] is not None and all(before.get(name) == value for name, value in part.items())


def restore_part(manifest: Manifest, part: str, *, cache: Path) -> Part:
    """Return the autoencoder or the text encoder that made a cache.

    Raises:
        ValueError: its weights are not where they were, as seen from the cache, or the config names no constructor.
    """

    def locate(name: str, path: str) -> str:
        if not path.startswith(HERE):
            return path
        found = Path(os.path.normpath(cache.absolute() / path.removeprefix(HERE)))
        if not found.exists():
            raise ValueError(f"the {part} of cache {cache} was at {found}, and is not; say where it is: {part}.{name}=PATH")
        return str(found)

    restored = read_part(part, dict(getattr(manifest, part)["config"]))
    if not isinstance(restored, Part):
        raise ValueError(f"the {part} of cache {cache} names no constructor; encode the cache again")
    for name in PATHS:
        restored = change_argument(part, restored, name, partial(locate, name))
    return restored
