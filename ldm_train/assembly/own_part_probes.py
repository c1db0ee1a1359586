"""Call own networks, text encoders and autoencoders once, at the run's own size of pictures, before a run reads anything."""

import torch
from torch import Tensor, nn

from ldm_train.assembly.parts import Parts, is_shipped
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.probing import UnfitError, attempt, describe, expect, expect_floats, require
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.diffusion.denoiser import weights_dtype
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.types import Autoencoder, CaptionBatch, Conditioner, Conditioning, Moments

TWO = 2  # examples
VALUE = 0.5  # of all images and latents


def probe_parts(parts: Parts, config: TrainSettings) -> None:
    """Raise if an own autoencoder, text encoder or network returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    probe_encoders(parts.autoencoder, parts.text_encoder, config)
    if not is_shipped(config.network):
        attempt(f"network._target_={config.network.target}", lambda: _probe_network(parts))


def probe_encoders(autoencoder: Autoencoder, text_encoder: nn.Module, config: TrainSettings | EncodeSettings) -> None:
    """Raise if an own autoencoder or text encoder returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return; or the pictures have other channels.
    """
    refuse_image_channels(autoencoder, read_pixel_format(config.pixels))
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    assert config.image_size is not None
    if not is_shipped(config.autoencoder):
        side = max(1, config.image_size // autoencoder.factor) * autoencoder.factor
        attempt(f"autoencoder._target_={config.autoencoder.target}", lambda: _probe_autoencoder(autoencoder, side))
    if not is_shipped(config.text_encoder):
        conditioner: Conditioner = text_encoder  # type: ignore[assignment]
        attempt(f"text_encoder._target_={config.text_encoder.target}", lambda: _probe_text_encoder(conditioner))


def refuse_image_channels(autoencoder: Autoencoder, pixels: PixelFormat | None) -> None:
    """Raise if an autoencoder takes pictures of another number of channels.

    Raises:
        ValueError: it does.
    """
    takes, given = getattr(autoencoder, "image_channels", 3), 3 if pixels is None else pixels.channels
    if takes != given:
        setting = f"pixels.channels={'null' if pixels is None else given}"
        raise ValueError(
            f"the autoencoder takes pictures of {takes} channels, and {setting} gives {given}; use autoencoder=identity, or "
            f"train one for them: ldm-train train_autoencoder pixels.channels={given} …"
        )


def _probe_network(parts: Parts) -> None:
    module, text_encoder = parts.network, parts.text_encoder
    side = max(1, parts.size // parts.divisor) * parts.divisor // parts.autoencoder.factor
    shape = (TWO, parts.autoencoder.channels, side, side)
    x_t = torch.full(shape, VALUE, dtype=weights_dtype(module, default=torch.float32))
    with torch.enable_grad():
        conditioning = parts.conditions(
            text_encoder(CaptionBatch(text_encoder.tokenize([""] * TWO))),
            parts.conditions.absent(TWO, size=(parts.size, parts.size), latent_size=(side, side)),
        )
        output = expect_floats(module(x_t, torch.tensor([1.0, 500.0]), conditioning), shape, f"forward of x_t {shape}")
    require((x_t == VALUE).all(), "forward changes x_t in place; the run needs it afterwards: compute with a copy")
    learns = "its output has no gradient, so nothing would be learned: it has no trained parameters, or detaches them"
    require(output.requires_grad, learns)


def _probe_text_encoder(text_encoder: Conditioner) -> None:
    tokens = text_encoder.tokenize([""] * TWO)
    require(isinstance(tokens, Tensor) and tokens.ndim == 2 and len(tokens) == TWO, "tokenize must return ids (B, L)")
    require(tokens.shape[1] > 0, "tokenize must return at least one id for each caption, also for the empty one")
    require(not tokens.is_floating_point(), f"tokenize must return whole numbers, and returned {tokens.dtype}")
    counts = text_encoder.count([""] * TWO)
    whole = [isinstance(count, int) and count >= 0 for count in counts]
    require(len(whole) == TWO and all(whole), f"count must return a whole number for each caption, and returned {counts}")
    learns = any(parameter.requires_grad for parameter in text_encoder.parameters())  # type: ignore[attr-defined]
    require(text_encoder.trained or not learns, "trained=False, but its parameters learn; call requires_grad_(False)")
    _expect_conditioning(text_encoder(CaptionBatch(tokens)), text_encoder)


def _expect_conditioning(found: Conditioning, text_encoder: Conditioner) -> None:
    if not isinstance(found, Conditioning):
        raise UnfitError(f"forward must return a Conditioning, and returned {describe(found)}")
    for name, width in (("tokens", text_encoder.context_width), ("vector", text_encoder.vector_width)):
        value = getattr(found, name)
        setting = "context_width" if name == "tokens" else "vector_width"
        require((value is None) == (width is None), f"{setting}={width}, but forward returns {name}={describe(value)}")
        if width is not None and value is not None:
            shape = (TWO, value.shape[1], width) if name == "tokens" and value.ndim == 3 else (TWO, width)
            expect_floats(value, shape, f"{name} of what forward returns")
    if found.mask is not None:
        require(found.tokens is not None, "forward returns a mask, but no tokens that it hides")
        assert found.tokens is not None
        expect(found.mask, found.tokens.shape[:2], "mask of what forward returns")


def _probe_autoencoder(autoencoder: Autoencoder, side: int) -> None:
    images = torch.full((TWO, getattr(autoencoder, "image_channels", 3), side, side), VALUE)
    shape = (TWO, autoencoder.channels, side // autoencoder.factor, side // autoencoder.factor)
    moments = autoencoder.encode(images)
    if not isinstance(moments, Moments):
        raise UnfitError(f"encode must return Moments, and returned {describe(moments)}")
    expect_floats(moments.mean, shape, f"mean of what encode returns for images {tuple(images.shape)}")
    if moments.log_variance is not None:
        expect_floats(moments.log_variance, shape, "log_variance of what encode returns")
    expect_floats(autoencoder.decode(moments.mean.float()), images.shape, f"decode of latents {shape}")
