"""What a config's autoencoder and text encoder are, in plain values for a manifest; not built where it knows them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm_train.data.decoding import ENCODING_VERSION
from ldm_train.data.manifest import Json, Manifest, Provenance
from ldm_train.encoders.fingerprint import fingerprint, weights_digest
from ldm_train.tasks.settings.config import build

PARTS = {"autoencoder": "vae", "text_encoder": "text_encoder"}  # and their subfolders in a pipeline's folder
HERE = "{cache}/"  # begins a path from the cache's folder: a cache holds no absolute one


@dataclass(frozen=True)
class Encoders:
    """An autoencoder and a text encoder as a manifest describes them."""

    autoencoder: dict[str, Json]
    text_encoder: dict[str, Json]
    shift: float
    scale: float
    factor: int

    def pictures(self, config: DictConfig) -> Provenance:
        """What turns a picture's bytes into stored moments under this config."""
        return Provenance(
            {
                "version": ENCODING_VERSION,
                "image_size": config.image_size,
                "background": config.background,
                "crop": OmegaConf.to_container(config.crop),  # type: ignore[dict-item]
                "autoencoder": self.autoencoder["fingerprint"],
                "dtype": config.dtype,
            }
        )

    def captions(self) -> Provenance:
        """What turns a caption into stored tokens and embeddings."""
        return Provenance({k: v for k, v in self.text_encoder.items() if k not in ("config", "files")})

    def made_by(self, config: DictConfig) -> dict[str, Json]:
        """The manifest's settings."""
        kinds: dict[str, Json] = {
            "pictures": dict(self.pictures(config).settings),
            "captions": dict(self.captions().settings),
        }
        return {
            "image_size": config.image_size,
            "encoding": kinds,
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
            "shift": self.shift,
            "scale": self.scale,
            "factor": self.factor,
        }


def describe(config: DictConfig, manifest: Manifest | None, *, cache: Path) -> Encoders:
    """The config's encoders: as the manifest says where config and files of weights are the same, else by building them."""
    parts = {name: described(config[name], cache=cache, part=part) for name, part in PARTS.items()}
    if manifest is not None and all(same(parts[name], getattr(manifest, name)) for name in parts):
        found = manifest.autoencoder, manifest.text_encoder
        return Encoders(*found, shift=manifest.shift, scale=manifest.scale, factor=manifest.factor)
    autoencoder, text_encoder = build(config.autoencoder, "autoencoder"), build(config.text_encoder, "text_encoder")
    frozen = None if text_encoder.trained else fingerprint(text_encoder)
    return Encoders(
        parts["autoencoder"] | {"fingerprint": fingerprint(autoencoder)},
        parts["text_encoder"] | text_encoder.tokenization | {"fingerprint": frozen},
        shift=autoencoder.shift,
        scale=autoencoder.scale,
        factor=autoencoder.factor,
    )


def described(config: DictConfig, *, cache: Path, part: str) -> dict[str, Json]:
    """A part's settings, without an absolute path, and the checksum of its files of weights where they are at hand.

    Args:
        part: its subfolder in a pipeline's folder.
    """
    settings: dict[str, Json] = OmegaConf.to_container(config)  # type: ignore[assignment]
    weights = config.get("weights")
    digest = weights_digest(weights, config.get("subfolder"), part=part)
    if weights is not None and Path(weights).is_absolute():
        settings["weights"] = HERE + Path(os.path.relpath(weights, cache)).as_posix()
    return {"config": settings, "files": digest}


def same(part: Mapping[str, Json], before: Mapping[str, Json]) -> bool:
    """Whether a part is known to compute what it did."""
    return part["files"] is not None and all(before.get(name) == value for name, value in part.items())


def restore(manifest: Manifest, part: str, *, cache: Path) -> DictConfig:
    """The config of a cache's autoencoder or text encoder.

    Raises:
        ValueError: its weights are not where they were, as seen from the cache.
    """
    settings = dict(getattr(manifest, part)["config"])
    weights = str(settings.get("weights"))
    if weights.startswith(HERE):
        path = Path(os.path.normpath(cache.absolute() / weights.removeprefix(HERE)))
        if not path.exists():
            raise ValueError(f"the {part} of cache {cache} was at {path}, and is not; say where it is: {part}.weights=PATH")
        settings["weights"] = str(path)
    return OmegaConf.create(settings)
