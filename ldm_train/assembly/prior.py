"""Prior preservation: class pictures that the first weights draw are trained on together with the user's pictures.

DreamBooth's second term (Ruiz et al. 2022, arXiv 2208.12242, eq. 2), as data: the pictures become a cache of their own, and
the weight of their loss is how often an epoch has them, which is the same in expectation and costs no second batch.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track

from ldm_train.assembly.encode_cache import encode_cache
from ldm_train.assembly.parts import build_parts, choose_device
from ldm_train.assembly.pixel_formats import refuse_rgb_command
from ldm_train.assembly.prompts import parse_texts
from ldm_train.assembly.stored_run import build_recipe
from ldm_train.assembly.stored_weights import load_first_weights
from ldm_train.assembly.trained_part import base_fingerprint
from ldm_train.assembly.training_data import fill_from_cache
from ldm_train.data.cache.reader import LatentCache, open_caches
from ldm_train.data.pictures.images import save_png, to_bytes
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.run_dir.record import PRIOR
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.training.checkpoints.checkpoint_files import checkpoints
from ldm_train.util.files import atomic_write, remove_files
from ldm_train.util.memory import count_at_once
from ldm_train.util.messages import note
from ldm_train.util.ownership import FolderKind, check_folder, read_mark
from ldm_train.util.processes import is_only_process, launched_rank

AT_ONCE = 16  # pictures
MANIFEST = "prior.json"
KIND = FolderKind("a folder of class pictures", MANIFEST, frozenset({"prompts", "weights", "count"}))
PICTURE = re.compile(r"(\d{5,})\.png")
Description = dict[str, object]


def join_prior(config: TrainSettings) -> TrainSettings:
    """Return settings with the cache of class pictures added, which is made first, if `prior.prompts` asks for them.

    They lie in the run directory: an interrupted drawing goes on where it was, and other settings or weights draw anew.

    Raises:
        ValueError: settings that do not go with it.
    """
    if config.prior.prompts is None:
        return config
    refuse_prior(config)
    joined = with_class_pictures(config, Path(config.run_dir))
    folder = Path(config.run_dir) / PRIOR
    continued = config.resume != "restart" and checkpoints(Path(config.run_dir))
    if launched_rank() == 0 and not (is_whole(folder) and continued):
        assert config.cache is not None
        with torch.random.fork_rng(devices=[]):
            make_class_pictures(config, folder, open_caches(config.cache)[0])
    return joined


def given_caches(config: TrainSettings) -> list[str]:
    """Return the caches that a config names; one, of no name, if its pictures are encoded on the fly."""
    return list(config.cache) if isinstance(config.cache, list) else [config.cache or ""]


def with_class_pictures(config: TrainSettings, run_dir: Path) -> TrainSettings:
    """Return settings with the cache of class pictures after the given caches, each with its share.

    Raises:
        ValueError: several own caches without shares.
    """
    own = given_caches(config)
    return config.with_values(cache=[*own, str(run_dir / PRIOR / "cache")], cache_shares=share_epoch(config, len(own)))


def with_given_caches(config: TrainSettings, given: TrainSettings) -> TrainSettings:
    """Return completed settings with the caches that the user gave, so that the stored config makes the same run again."""
    return config.with_values(cache=given.cache, cache_shares=given.cache_shares)


def refuse_prior(config: TrainSettings) -> None:
    """Raise for settings that do not go with class pictures while training.

    Raises:
        ValueError: saying what to set.
    """
    refuse_prior_settings(config)
    if config.cache is None:
        raise ValueError("prior.prompts need the own pictures in a cache; encode them, or set prior.prompts=null")
    if not is_only_process(num_nodes=config.trainer.num_nodes) and not is_whole(Path(config.run_dir) / PRIOR):
        raise ValueError(
            "prior.prompts are drawn by one process: start once with trainer.devices=1, without torchrun or SLURM's tasks, "
            "and continue on all devices; or sample them, encode them, and give both caches with cache_shares"
        )


def refuse_prior_settings(config: TrainSettings) -> None:
    """Raise for settings that never go with class pictures.

    Raises:
        ValueError: saying what to set.
    """
    refuse_rgb_command(config, "prior.prompts")
    if config.network.get("weights") is None:
        raise ValueError("prior.prompts are drawn by the weights that a run starts from; set network.weights=…")
    if config.conditions:
        raise ValueError("prior.prompts have no values for conditions=…; leave one of the two out")
    if config.loss_mask is not None:
        raise ValueError(f"prior.prompts have no map for loss_mask={config.loss_mask}; leave one of the two out")
    if config.cache_loss_weights is not None:
        raise ValueError("cache_loss_weights do not go with prior.prompts, of which prior.weight is the weight")
    if config.cache_repeats is not None:
        raise ValueError("cache_repeats do not go with prior.prompts, whose weight is a share; give cache_shares")
    if not config.prior.weight > 0:
        raise ValueError(f"prior.weight={config.prior.weight:g} must be above 0; prior.prompts=null is none")


def share_epoch(config: TrainSettings, count: int) -> list[float]:
    """Return the shares of the given caches and of the class pictures in an epoch, in the ratio 1 : `prior.weight`.

    Raises:
        ValueError: several own caches without shares.
    """
    given = config.cache_shares
    if given is None and count > 1:
        raise ValueError(f"with prior.prompts, {count} caches need cache_shares=…, one for each")
    own = [1.0] if given is None or count == 1 else [float(share) for share in given]
    if len(own) != count or not sum(own) > 0:
        raise ValueError(f"cache_shares={given} must be {count} numbers, one for each cache, not all 0")
    whole = 1 + config.prior.weight
    return [*(share / sum(own) / whole for share in own), config.prior.weight / whole]


def make_class_pictures(config: TrainSettings, folder: Path, cache: LatentCache) -> None:
    """Draw the class pictures that are missing, and encode them like the given cache."""
    prompts = class_prompts(config)
    config = fill_from_cache(config, cache)
    parts = build_parts(config)
    lines = load_first_weights(config, parts)
    device = choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto")
    wanted: Description = {"prompts": prompts, "weights": base_fingerprint(parts), **describe_drawing(config)}
    check_folder(folder, KIND, setting="run_dir", given=str(folder))
    before = read_mark(folder, KIND)
    if is_whole(folder) and before == wanted | {"encoded": True}:
        return
    if before is not None and before not in (wanted, wanted | {"encoded": True}):
        note(f"{folder} holds pictures of other settings or weights: they are drawn anew")
        remove_files(find_pictures(folder, before.get("count")))
    atomic_write(folder / MANIFEST, json.dumps(wanted, indent=2) + "\n")
    for line in lines:
        note(line)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), device)
    draw_class_pictures(
        generation,
        build_recipe(config, steps=config.prior.steps, seed=config.prior.seed),
        folder,
        prompts,
        config.prior.count,
    )
    encode_class_pictures(config, folder, cache)
    atomic_write(folder / MANIFEST, json.dumps(wanted | {"encoded": True}, indent=2) + "\n")


def class_prompts(config: TrainSettings) -> list[str]:
    """Return what class pictures are drawn of."""
    return parse_texts(config.prior.prompts, setting="prior.prompts")


def describe_drawing(config: TrainSettings) -> Description:
    """Return all settings that decide what is drawn, except the prompts, in plain values."""
    plain = config.as_plain()
    names = ("sampler", "spacing", "guidance", "schedule", "prediction", "image_size")
    return {**{name: plain[name] for name in names}, **{n: getattr(config.prior, n) for n in ("count", "steps", "seed")}}


def draw_class_pictures(
    generation: Generation, recipe: SamplingSettings, folder: Path, prompts: Sequence[str], count: int
) -> None:
    """Draw the pictures that are missing, the i-th from noise number i, and write their captions."""
    texts = [prompts[number % len(prompts)] for number in range(count)]
    missing = [number for number in range(count) if not (folder / "pictures" / picture_name(number)).is_file()]
    at_once = count_at_once(*generation.sides, most=AT_ONCE)
    for first in track(range(0, len(missing), at_once), "drawing class pictures"):
        numbers = missing[first : first + at_once]
        batch = [texts[number] for number in numbers]
        images = generation(batch, recipe, numbers=torch.tensor(numbers))
        generation.require_finite(images, batch, numbers, seed=recipe.seed)
        for number, image in zip(numbers, to_bytes(images).cpu(), strict=True):
            save_png(image, folder / "pictures" / picture_name(number))
    rows = [{"file_name": picture_name(number), "text": text} for number, text in enumerate(texts)]
    atomic_write(folder / "pictures" / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def encode_class_pictures(config: TrainSettings, folder: Path, cache: LatentCache) -> None:
    """Encode the class pictures with the run's encoders, in the type of the given cache."""
    made = cache.manifest.encoding["pictures"]
    assert isinstance(made, dict)
    words = [f"source.path={folder / 'pictures'}", f"cache={folder / 'cache'}", f"image_size={config.image_size}"]
    own = compose_as(EncodeSettings, [*words, f"dtype={made['dtype']}", "strict=true"])
    trainer = own.trainer.model_copy(update={name: getattr(config.trainer, name) for name in ("accelerator", "tf32")})
    encoders = {"autoencoder": config.autoencoder, "text_encoder": config.text_encoder}
    if encode_cache(own.with_values(**encoders, trainer=trainer, scale_check=config.scale_check)):
        raise ValueError(
            f"{folder / 'pictures'} holds files that could not be encoded; {folder / 'cache' / 'report.json'} names them. "
            "Move your own out of that folder, remove damaged ones, which are drawn again, and repeat the command"
        )


def picture_name(number: int) -> str:
    return f"{number:05d}.png"


def is_whole(folder: Path) -> bool:
    """Return whether all class pictures were drawn and encoded."""
    return (read_mark(folder, KIND) or {}).get("encoded") is True and (folder / "cache" / "manifest.json").is_file()


def find_pictures(folder: Path, count: object) -> list[Path]:
    """Return the pictures with the numbers below a manifest's count. The cache stays: it is encoded anew in its place."""
    place = folder / "pictures"
    if not isinstance(count, int) or not place.is_dir():
        return []
    matches = ((PICTURE.fullmatch(path.name), path) for path in place.iterdir())
    return [path for match, path in matches if match and int(match[1]) < count]
