"""Read what drawing starts from: prompts, a trained run at the requested size, and a picture with its mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ldm_train.assembly.cut_texts import warn_of_cut_prompts
from ldm_train.assembly.mask import KeptPixels, read_mask, reduce_mask, soften_edge
from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.data.pictures.decoding import read_upright_size
from ldm_train.data.pictures.images import DECODE_ERRORS, read_image, to_signed
from ldm_train.data.pictures.mask_files import has_transparency
from ldm_train.generation import Generation
from ldm_train.samplers.base import InitialPicture
from ldm_train.settings.schema.typed_values import expand_home
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.files import LONGEST_NAME
from ldm_train.util.inputs import MAX_PICTURE, MAX_PROMPTS, describe_error, read_input, read_user_text
from ldm_train.util.messages import note, note_all, warn
from ldm_train.util.prompt_syntax import list_syntax_notes


def open_sized(config: SampleSettings) -> TrainedRun:
    """Open the run that a command names, set to the size that it asks for; print a warning if prompts are cut."""
    trained = open_run(config)
    negative = [config.negative_prompt] if config.negative_prompt else []
    for name, prompts in (("prompts", parse_prompts(config.prompts)), ("negative_prompt", negative)):
        for line in warn_of_cut_prompts(trained.parts.text_encoder, prompts, setting=name):
            warn(line)
    return replace(trained, generation=resize_generation(trained.generation, config.size))


def resize_generation(generation: Generation, size: Sequence[int] | None) -> Generation:
    """Return a generation that draws pictures of another (height, width) than the run's squares.

    Raises:
        ValueError: not two numbers, or none that the autoencoder and the network can divide.
    """
    if size is None:
        return generation
    unit = generation.autoencoder.factor * getattr(generation.network, "divisor", 1)
    if len(size) != 2 or any(side < 1 or side % unit for side in size):
        raise ValueError(f"size={list(size)} must be a height and a width, multiples of {unit} pixels for this run")
    return replace(generation, size=(size[0], size[1]))


@dataclass(frozen=True)
class StartPicture:
    """What drawing starts from: latents with their mask, None for noise; and the pixels that are kept, None for none."""

    initial: InitialPicture | None = None
    kept: KeptPixels | None = None

    def paste(self, images: torch.Tensor) -> torch.Tensor:
        """Return drawn images (B, 3, H, W) with the pixels that are kept."""
        return images if self.kept is None else self.kept(images)


def read_start(config: SampleSettings, generation: Generation) -> StartPicture:
    """Return the picture to start from, and its mask, white where to draw.

    Raises:
        ValueError: a mask without a picture, a strength without one, or a file that cannot be read.
    """
    if config.picture is None:
        if config.mask is not None or config.strength != 1:
            raise ValueError(f"mask={config.mask} and strength={config.strength} need a picture=FILE to start from")
        return StartPicture()
    original = read_signed(config.picture, generation.size)
    latents = generation.encode(original)
    if not latents.isfinite().all():
        raise ValueError(f"the latents of picture={config.picture} contain NaN or infinity; look at the autoencoder")
    content = read_input(Path(config.picture), limit=MAX_PICTURE)
    if has_transparency(content):
        note(f"note: picture={config.picture} is transparent in places, which are taken as white")
    if config.mask is None:
        return StartPicture(InitialPicture(latents, config.strength))
    white = read_mask(config.mask, picture=read_upright_size(content), size=generation.sides)
    height, width = latents.shape[2:]
    mask = reduce_mask(white, (height, width), path=config.mask)
    edge = generation.autoencoder.factor if config.mask_edge is None else config.mask_edge
    kept = KeptPixels(original, soften_edge(white, edge)) if config.paste_original else None
    return StartPicture(InitialPicture(latents, config.strength, mask.to(latents)), kept)


def read_signed(path: str, size: int | tuple[int, int]) -> torch.Tensor:
    """Read a picture file, cropped and scaled as encoding does it, (1, 3, H, W) in [-1, 1]."""
    try:
        return to_signed(read_image(Path(path), size)[None])
    except DECODE_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a picture: {describe_error(error)}") from error


def parse_prompts(prompts: object, *, setting: str = "prompts") -> list[str]:
    """Return the prompts of a setting: a list, one prompt, or a text file with one prompt a line.

    Raises:
        ValueError: something else, a file that is missing or not text, or no prompt.
    """
    if isinstance(prompts, str) and (_is_file(expand_home(prompts)) or looks_like_a_file(prompts)):
        texts = _read_lines(expand_home(prompts), setting)
    else:
        listed = list(prompts) if isinstance(prompts, list) else [prompts]
        if any(isinstance(one, list | dict) or one is None for one in listed):
            raise ValueError(f"{setting}={prompts} must be texts: one, a list of them, or a text file with one a line")
        texts = [str(one) for one in listed]
    if not texts:
        raise ValueError(f"{setting}={prompts} holds no prompt")
    return texts


def read_prompts(prompts: object, *, setting: str = "prompts") -> list[str]:
    """Return prompts as `parse_prompts`, and report syntax of a web UI in them."""
    texts = parse_prompts(prompts, setting=setting)
    note_all(list_syntax_notes(texts, setting))
    return texts


def looks_like_a_file(text: str) -> bool:
    """Return whether a text is the name of a file, as `prompts.txt` and `lists/animals` are, and not a prompt."""
    return " " not in text and (Path(text).suffix != "" or "/" in text) and len(Path(text).name.encode()) <= LONGEST_NAME


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a prompt may be longer than any file's name
        return False


def _read_lines(path: str, setting: str) -> list[str]:
    try:
        content = read_user_text(Path(path), limit=MAX_PROMPTS)
    except ValueError as error:
        raise ValueError(f"{setting}={path}: {error}; give a text file, or a list: '{setting}=[\"…\"]'") from error
    return [line.strip() for line in content.splitlines() if line.strip()]
