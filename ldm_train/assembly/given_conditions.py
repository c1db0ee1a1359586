"""Read what a command gives for the conditions of a run: numbers, and files of maps."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from ldm_train.assembly.drawing import read_given_picture, read_signed
from ldm_train.assembly.enlarging import find_low_resolution, give_small, read_small
from ldm_train.assembly.mask import read_mask
from ldm_train.conditioners.condition import Condition
from ldm_train.conditioners.map import Map
from ldm_train.conditioners.number import LARGEST, Number
from ldm_train.conditioners.picture import Picture
from ldm_train.data.pictures.arrays import is_array
from ldm_train.data.pictures.crops import centre_view
from ldm_train.data.pictures.decoding import DECODE_ERRORS, read_upright_size
from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.data.pictures.maps import decode_map, render_map
from ldm_train.data.pictures.mask_files import has_transparency
from ldm_train.generation import Generation
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.types import Given
from ldm_train.util.inputs import MAX_PICTURE, READ_ERRORS, describe_error, read_input
from ldm_train.util.messages import note, warn

PRESENT = torch.tensor([True])


def read_given(config: SampleSettings, generation: Generation) -> dict[str, Given]:
    """Return what a command gives for the conditions of a run, a row for all pictures; warn of numbers that it never saw.

    Raises:
        ValueError: the run is not conditioned on it, or needs what is not given, or a file cannot be read as a map.
    """
    found: dict[str, Given] = {}
    for name, value in config.number.items():
        condition = find_condition(generation, f"number.{name}={value:g}", name, takes="takes_number")
        if abs(value) > LARGEST:
            raise ValueError(
                f"number.{name}={value:g} is too large; it must be at most {LARGEST:g}, and what was trained on"
            )
        if isinstance(condition, Number) and not condition.low <= value <= condition.high:
            low, high = f"{condition.low:.15g}", f"{condition.high:.15g}"
            warn(f"number.{name}={value:.15g} is outside of what the run was trained on, {low} to {high}")
        kind = torch.float64 if isinstance(condition, Number) else torch.float32  # as it reads them of the data
        found[name] = Given(torch.tensor([float(value)], dtype=kind), PRESENT)
    for name, path in config.map.items():
        condition = find_condition(generation, f"map.{name}={path}", name, takes="takes_map")
        if isinstance(condition, Picture):
            found[name] = Given(condition.embed(read_signed(path, generation.size).to(generation.device)), PRESENT)
        else:
            assert isinstance(condition, Map)
            found[name] = Given(read_map_file(path, condition, generation), PRESENT)
    found |= read_picture(config, generation)
    generation.complete(found, 1)
    return found


def read_picture(config: SampleSettings, generation: Generation) -> dict[str, Given]:
    """Return what picture=FILE and mask=FILE give for the conditions that take a picture to enlarge, or a hole.

    Raises:
        ValueError: a file cannot be read, they do not fit together, or a noise level that has no effect or was not trained.
    """
    condition, found = find_low_resolution(generation.conditions), dict[str, Given]()
    if config.noise_level is not None and condition is None and config.upscaler is None:
        raise ValueError(f"noise_level={config.noise_level} is of a run that enlarges pictures, and this one does not")
    if condition is not None and config.picture is not None:
        small, _ = read_small(config.picture, generation, condition)
        level = config.noise_level if config.upscaler is None else None  # else it is the upscaler's
        numbers = [config.first_number]
        found[condition.name] = give_small(small, condition, numbers, noise_level=level, seed=config.seed)
    if config.picture is not None and config.mask is not None:
        names = [one.name for one in generation.conditions.each if one.takes_mask]
        found |= {name: Given(read_hole(config.picture, config.mask, generation), PRESENT) for name in names}
    return found


def find_condition(generation: Generation, word: str, name: str, *, takes: str) -> Condition:
    """Return the condition of this name, which takes a number or a map.

    Raises:
        ValueError: there is none; it names those that there are.
    """
    fitting = {one.name: one for one in generation.conditions.each if getattr(one, takes)}
    if name not in fitting:
        others = [one.name for one in generation.conditions.each if one.name not in fitting]
        also = f"; its other conditions: {', '.join(others)}" if others else ""
        kind = takes.removeprefix("takes_")
        raise ValueError(f"{word}: this run is conditioned on {list_or_none([*fitting], kind)}{also}")
    return fitting[name]


def list_or_none(names: Sequence[str], kind: str) -> str:
    """Return names of conditions of a kind for a message."""
    return f"the {kind}{'s' * (len(names) > 1)} {', '.join(names)}" if names else f"no {kind}"


def read_hole(picture: str, mask: str, generation: Generation) -> torch.Tensor:
    """Return a mask and the raw latents of the picture that it leaves, (1, 1 + C, h, w), as a cache stores them.

    Raises:
        ValueError: a file cannot be read, or they do not fit together.
    """
    size = read_upright_size(read_input(Path(picture), limit=MAX_PICTURE))
    hole = (read_mask(mask, picture=size, size=generation.sides) >= 0.5).float()
    image = read_given_picture(picture, generation) * (1 - hole)
    with torch.no_grad():
        latents = generation.autoencoder.encode(image.to(generation.device)).mean
    return torch.cat([interpolate(hole, latents.shape[2:], mode="nearest").to(latents), latents], 1)


def read_map_file(path: str, condition: Map, generation: Generation) -> torch.Tensor:
    """Return a map (1, C, h, w) as a cache stores it, its centre cropped to the shape of the pictures to draw.

    Raises:
        ValueError: the file cannot be read as such a map.
    """
    spec = MapSpec(
        condition.name,
        condition.channels,
        condition.nearest,
        condition.encoded,
        condition.normalized,
        control=condition.control,
    )
    try:
        content = read_input(Path(path), limit=MAX_PICTURE)
        values = decode_map(content, spec)
        if spec.num_read in (1, 3) and not spec.nearest and not is_array(content) and has_transparency(content):
            note(f"note: map.{condition.name}={path} is transparent in places, which are taken as white")
    except (*DECODE_ERRORS, *READ_ERRORS) as error:
        raise ValueError(f"map.{condition.name}={path} cannot be read as a map: {describe_error(error)}") from error
    view = centre_view((values.shape[1], values.shape[2]), generation.sides)
    rendered = render_map(values, view, spec, factor=generation.autoencoder.factor)[None]
    if not spec.encoded:
        return rendered
    with torch.no_grad():
        return generation.autoencoder.encode(rendered.to(generation.device)).mean
