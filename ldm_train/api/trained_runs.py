"""Open a trained run from Python, draw with it, and show what was drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from types import MappingProxyType

import torch
from PIL import Image
from torch import Tensor

from ldm_train.assembly.drawing import open_sized
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.data.pictures.images import to_bytes
from ldm_train.diffusion.guidance import Guidance
from ldm_train.samplers.base import Sampler
from ldm_train.settings.composition import compose_as
from ldm_train.settings.python_values import PythonValues, read_trust
from ldm_train.settings.run_options import DRAWING_GROUPS, read_run_config
from ldm_train.settings.schema.options import TARGET
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.shipped import ConfigError, groups_of
from ldm_train.settings.trust import granted
from ldm_train.training.callbacks.picture_grids import make_grid_picture

WITHOUT_EFFECT = {"prompts", "out", "count", "labels", "x", "y", "interpolate"}
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
    given = {**settings, **more}
    if useless := sorted(WITHOUT_EFFECT & given.keys()):
        raise ConfigError(f"{useless[0]} has no effect in load_run, which draws nothing; generate() takes prompts")
    own = {name: value for name, value in given.items() if name in groups_of("train") and name not in DRAWING_GROUPS}
    packages = read_trust(trust)
    with granted(packages):
        passed = PythonValues("train", own)
        drawing = PythonValues("sample", {name: value for name, value in given.items() if name not in own})
    stored, objects = read_run_config(fspath(run_dir)), {**drawing.objects, **passed.objects}
    for group, node in passed.values.items():
        before, now = stored.get(group), node[TARGET] if isinstance(node, dict) and TARGET in node else None
        if isinstance(before, dict) and now in passed.objects:
            objects[str(before.get(TARGET))] = passed.objects[now]  # whatever the run calls it
    with granted(replace(packages, objects=objects)):
        return open_for_drawing(fspath(run_dir), drawing.values)


def open_for_drawing(run_dir: str, values: Mapping[str, object] = NOTHING) -> TrainedRun:
    """Open a run with settings of `sample` as plain values."""
    needed = {"prompts": [""], "out": "."}  # which only the command uses
    return open_sized(compose_as(SampleSettings, [], {**needed, **values, "run_dir": run_dir}))


def generate(
    run: TrainedRun,
    prompts: str | Sequence[str],
    *,
    seed: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: Sampler | None = None,
    negative_prompt: str | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Draw a picture for each prompt and return them as images (B, 3, H, W) in [-1, 1], float32 on the CPU.

    Picture i has the noise of number i under the seed, as in `ldm-train sample`, whatever the batch size.

    Args:
        seed: of the noise.
        negative_prompt: what guidance leads away from.
        seed, negative_prompt, steps, guidance_scale, sampler: None for those that the run was loaded with.
        batch_size: pictures drawn at once.

    Raises:
        ValueError: the sampler and the number of steps do not fit the run's schedule, or an image is not finite.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    recipe = replace(
        run.recipe,
        seed=run.recipe.seed if seed is None else seed,
        steps=run.recipe.steps if steps is None else steps,
        sampler=run.recipe.sampler if sampler is None else sampler,
        guidance=run.recipe.guidance if guidance_scale is None else rescale(run.recipe.guidance, guidance_scale),
        negative_prompt=run.recipe.negative_prompt if negative_prompt is None else negative_prompt,
    )
    run.generation.check(texts, recipe)
    drawn = []
    for first in range(0, len(texts), batch_size):
        batch = texts[first : first + batch_size]
        images = run.generation(batch, recipe, first=first)
        drawn.append(
            run.generation.require_finite(images, batch, range(first, first + len(batch)), seed=recipe.seed).cpu().float()
        )
    return torch.cat(drawn)


def rescale(guidance: Guidance, scale: float) -> Guidance:
    """Return a guidance with another scale, an argument that every one has."""
    return partial(guidance, scale=scale)  # type: ignore[call-arg]


def picture_grid(images: Tensor, *, columns: int = 8) -> Image.Image:
    """Return images (B, 3, H, W) in [-1, 1] as one picture in rows of `columns`, which a notebook shows."""
    grid = make_grid_picture(to_bytes(images.cpu()), columns=columns)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())
