"""Open a trained run from Python, draw with it, and show what was drawn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from types import MappingProxyType
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ldm_train.api.call_prompts import plan_prompt, read_prompt_list
from ldm_train.assembly.drawing import StartPicture, naming_prompt, open_sized, read_start, set_size
from ldm_train.assembly.given_conditions import read_picture
from ldm_train.assembly.pixel_formats import refuse_rgb_command
from ldm_train.assembly.prompt_options import read_mapping_prompt
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.assembly.studio import Studio
from ldm_train.assembly.upscaling import make_upscaler
from ldm_train.data.pictures.images import to_bytes
from ldm_train.samplers.base import Sampler
from ldm_train.settings.composition import compose_as
from ldm_train.settings.python_values import PythonValues, merge_settings, read_trust
from ldm_train.settings.run_options import DRAWING_GROUPS, read_run_config
from ldm_train.settings.schema.options import TARGET
from ldm_train.settings.schema.using import DrawingSettings, SampleSettings
from ldm_train.settings.shipped import ConfigError, groups_of
from ldm_train.settings.trust import granted
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Given

OF_OPENING = {*DrawingSettings.model_fields, "size", "negative_prompt", "adapters", "embeddings"}
WITHOUT_EFFECT = SampleSettings.model_fields.keys() - OF_OPENING
Value = TypeVar("Value")
NOTHING: Mapping[str, object] = MappingProxyType({})


def load_run(
    run_dir: str | PathLike[str],
    settings: Mapping[str, object] = NOTHING,
    /,
    *,
    trust: str | Sequence[str] = (),
    **more: object,
) -> TrainedRun:
    """Open a trained run, ready to draw.

    Settings are those of `ldm-train sample`: `weights` ("ema" or "raw"), `device`, `steps`, `sampler`,
    `guidance={"scale": 3.0}`, `size=[height, width]` in pixels, `adapters`, `embeddings`. An object that the run was trained
    with and that no file can hold is passed under the name of its group, such as `network=MyNetwork`; of a module of torch a
    copy gets the trained weights.

    Args:
        run_dir: the directory that training wrote.
        trust: packages of own code that the run's config names.

    Raises:
        ConfigError: an unknown setting, or a value of another type.
        ValueError: no run there, no checkpoint, weights of another network, or own code that is neither trusted nor passed.
    """
    given = merge_settings(settings, more)
    if useless := sorted(WITHOUT_EFFECT & {name.partition(".")[0] for name in given}):
        raise ConfigError(
            f"{useless[0]} has no effect in load_run, which draws nothing; generate() takes prompts, picture=, mask=, "
            "strength=, batch_size= and given="
        )
    with granting(run_dir, given, trust) as values:
        return open_for_drawing(fspath(run_dir), values)


def open_studio(
    run_dir: str | PathLike[str],
    settings: Mapping[str, object] = NOTHING,
    /,
    *,
    trust: str | Sequence[str] = (),
    **more: object,
) -> Studio:
    """Open a trained run to draw again and again with other settings of `ldm-train sample`, by their names.

    Args:
        run_dir, settings, trust, more: as of `load_run`; also all others with which `sample` draws one picture, such as
            `picture`, `mask`, `number` and `attention`.

    Raises:
        ConfigError, ValueError: as `load_run`.
    """
    with granting(run_dir, merge_settings(settings, more), trust) as values:
        return Studio(compose_for_drawing(fspath(run_dir), values))


@contextmanager
def granting(
    run_dir: str | PathLike[str], given: Mapping[str, object], trust: str | Sequence[str]
) -> Iterator[Mapping[str, object]]:
    """Let what a call passes and trusts be built until the block ends, which gets the settings of drawing as plain values.

    Raises:
        ConfigError, ValueError: as `load_run`.
    """
    if not isinstance(run_dir, str | PathLike):
        raise ConfigError(f"a run is opened by its directory, not by {run_dir!r:.100}")
    own = {name: value for name, value in given.items() if name in groups_of("train") and name not in DRAWING_GROUPS}
    packages = read_trust(trust)
    with granted(packages):
        passed = PythonValues("train", own)
        drawing = PythonValues("sample", {name: value for name, value in given.items() if name not in own})
    stored, objects = read_run_config(fspath(run_dir)), {**drawing.objects, **passed.objects}
    for group, node in passed.values.items():
        target = node.get(TARGET) if isinstance(node, dict) else None
        if target is None:
            raise ConfigError(
                f"{group}={node!r:.100} has no effect in load_run, which takes the run's own settings; pass an object, if "
                "the run was trained with one that no file can hold"
            )
        before = stored.get(group)
        if isinstance(before, dict) and target in passed.objects:
            objects[str(before.get(TARGET))] = passed.objects[target]  # whatever the run calls it
        elif isinstance(before, dict) and before.get(TARGET) != target:
            raise ConfigError(
                f"{group}={target} is not what the run was trained with, which is {before.get(TARGET)}: pass that class, or "
                f"leave {group} out if it is a class of ldm_train"
            )
    with granted(replace(packages, objects=objects)):
        yield drawing.values


def open_for_drawing(run_dir: str, values: Mapping[str, object] = NOTHING) -> TrainedRun:
    """Open a run with settings of `sample` as plain values."""
    return open_sized(compose_for_drawing(run_dir, values))


def compose_for_drawing(run_dir: str, values: Mapping[str, object]) -> SampleSettings:
    """Return complete settings of `sample`, of plain values."""
    needed = {"prompts": [""], "out": "pictures"}  # which only the command uses
    return compose_as(SampleSettings, [], {**needed, **values, "run_dir": run_dir})


def generate(
    run: TrainedRun,
    prompts: str | Mapping[str, object] | Sequence[str | Mapping[str, object]],
    *,
    seed: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: Sampler | None = None,
    negative_prompt: str | None = None,
    batch_size: int = 16,
    picture: str | PathLike[str] | None = None,
    mask: str | PathLike[str] | None = None,
    strength: float = 1.0,
    noise_level: int | None = None,
    tile: int | None = None,
    upscaler: TrainedRun | None = None,
    given: Mapping[str, Given] | None = None,
) -> Tensor:
    """Draw a picture for each prompt and return them as images (B, 3, H, W) in [-1, 1], float32 on the CPU.

    Picture i has the noise of number i under the seed, as in `ldm-train sample`, whatever the batch size; a prompt with a
    seed of its own has number 0.

    Args:
        prompts: texts, taken as they are, or mappings as in the files of `ldm-train sample`, such as `{"prompt": "a fox",
            "seed": 7, "negative": "blurry", "width": 64, "height": 64, "guidance": 4.5, "steps": 20}`.
        seed: of the noise.
        negative_prompt: what guidance leads away from.
        seed, negative_prompt, steps, guidance_scale, sampler: None for those that the run was loaded with. What a mapping
            has counts instead.
        batch_size: pictures drawn at once.
        picture, mask: files to start from, as `picture=FILE mask=FILE` of `ldm-train sample`: white is drawn anew, the rest
            stays.
        strength: how much of that picture may change, up to 1.
        noise_level, tile: as of `ldm-train sample`. A run with the condition `low_resolution` enlarges `picture`.
        upscaler: a run with that condition, which enlarges what is drawn; `noise_level` and `tile` are then of this one.
        given: what the pictures are conditioned on besides the prompts, by the conditions' names: a row for each, or one for
            all, such as `{"age": Given(torch.tensor([30.0]), torch.tensor([True]))}` of `ldm_train.types`.

    Raises:
        ValueError: a prompt that is no text or mapping, or has an unknown option; prompts of different sizes; or the sampler
            and the number of steps do not fit the run's schedule; a condition that the run needs, or does not know; a
            file that cannot be read; or an image is not finite.
    """
    if not isinstance(run, TrainedRun):
        raise ValueError(f"generate takes a run as load_run() or train() returns it, not a {type(run).__name__}")
    if not isinstance(sampler, Sampler | None):
        raise ValueError(f"sampler={sampler!r:.100} must be an object such as ldm_train.samplers.DDIM()")
    settings = compose_inputs(
        run, picture=picture, mask=mask, strength=strength, noise_level=noise_level, tile=tile, upscaler=upscaler
    )
    run = run if settings is None else set_size(run, settings)
    options = {"negative": negative_prompt, "seed": seed, "steps": steps, "guidance": guidance_scale}
    common = read_mapping_prompt({"prompt": "", **options}, "generate")
    read = read_prompt_list([prompts] if isinstance(prompts, str | Mapping) else prompts)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number of at least 1")
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(read):
        groups.setdefault(str(prompt.options), []).append(place)
    drawings = [(places, plan_prompt(run, read[places[0]], common, sampler)) for places in groups.values()]
    if len(sizes := {drawing.sides for _, (drawing, _) in drawings}) > 1:
        raise ValueError(
            f"prompts ask for pictures of different sizes, {sorted(sizes)} (height, width); draw each size apart"
        )
    for places, (drawing, recipe) in drawings:
        with naming_prompt(read[places[0]]):
            drawing.check([read[place].text for place in places], recipe)
    first_drawing = drawings[0][1][0]  # all are of one size
    start, found = StartPicture(), dict[str, Given]()
    if settings is not None:
        start = read_start(settings, first_drawing)
        found = read_picture(settings.with_values(seed=drawings[0][1][1].seed), first_drawing)
    enlarge = None if upscaler is None else make_upscaler(upscaler, noise_level=noise_level, tile=tile, seed=0)
    if enlarge is not None:
        refuse_rgb_command(run.config, "upscaler")
        enlarge.check([prompt.text for prompt in read])
    known = first_drawing.complete(found | dict(given or {}), len(read))
    images: dict[int, Tensor] = {}
    for places, (drawing, recipe) in drawings:
        for first in range(0, len(places), batch_size):
            batch = places[first : first + batch_size]
            texts, numbers = [read[place].text for place in batch], [place * (read[place].seed is None) for place in batch]
            own = {name: rows[torch.tensor(batch)] for name, rows in known.items()}
            drawn = drawing(texts, recipe, numbers=torch.tensor(numbers), picture=start.initial, given=own)
            finite = drawing.require_finite(start.paste(drawn), texts, numbers, seed=recipe.seed)
            if enlarge is not None:
                finite = replace(enlarge, seed=recipe.seed)(finite, texts, numbers)
            images |= zip(batch, finite.cpu().float(), strict=True)
    return torch.stack([images[place] for place in range(len(read))])


def compose_inputs(
    run: TrainedRun,
    *,
    picture: str | PathLike[str] | None,
    mask: str | PathLike[str] | None,
    upscaler: TrainedRun | None,
    **more: object,
) -> SampleSettings | None:
    """Return what a call gives of a command's settings; None if it gives nothing of these.

    Raises:
        ConfigError: a value of another type.
        ValueError: the upscaler is no run.
    """
    if not isinstance(upscaler, TrainedRun | None):
        raise ValueError(f"upscaler takes a run as load_run() or train() returns it, not a {type(upscaler).__name__}")
    if picture is mask is upscaler is None and more == {"strength": 1.0, "noise_level": None, "tile": None}:
        return None
    files = {name: None if file is None else fspath(file) for name, file in (("picture", picture), ("mask", mask))}
    other = None if upscaler is None else str(upscaler.config.run_dir)
    return compose_for_drawing(str(run.config.run_dir), {**files, **more, "upscaler": other})


def picture_grid(images: Tensor, *, columns: int = 8) -> Image.Image:
    """Return images (B, 3, H, W) in [-1, 1] as one picture in rows of `columns`, which a notebook shows.

    Raises:
        ValueError: other images, or less than one column.
    """
    fits = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == 3 and len(images) > 0
    if not fits or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"picture_grid takes images (B, 3, H, W) in [-1, 1], as generate() returns, not {found}")
    if not isinstance(columns, int) or columns < 1:
        raise ValueError(f"columns={columns!r} must be a whole number of at least 1")
    grid = make_grid_picture(to_bytes(images.cpu()), columns=columns)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())
