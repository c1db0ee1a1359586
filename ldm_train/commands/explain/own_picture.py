"""The picture that is explained: an example of the run's data, or a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm_train.assembly.drawing import read_given_picture
from ldm_train.assembly.prompts import read_texts
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import split_held_out
from ldm_train.data.cache.reader import LatentCache, open_caches
from ldm_train.generation import Generation
from ldm_train.settings.schema.using import ExplainSettings
from ldm_train.util.text import nearest

OTHERS = 2  # captions of other examples that are drawn too


@dataclass(frozen=True)
class OwnPicture:
    """A picture with its latents and its prompt.

    Args:
        name: its key in the data, or its file.
        image: (1, 3, H, W) in [-1, 1]; of an example of a cache, what the autoencoder decodes.
        latents: (1, C, H/factor, W/factor), the posterior's mean.
        others: other prompts to draw from the same noise.
        from_cache: whether the cache has it, which holds no pixels.
    """

    name: str
    image: Tensor
    latents: Tensor
    prompt: str
    others: Sequence[str]
    from_cache: bool


@torch.no_grad()
def read_own_picture(
    settings: ExplainSettings, generation: Generation, *, caches: str | Sequence[str] | None, held_out: float | None
) -> tuple[Generation, OwnPicture]:
    """Return the picture that the settings name, and a generation of its size.

    Args:
        caches, held_out: the data that it may be an example of, as in training.

    Raises:
        ValueError: there is no such example, the file cannot be read, or a file comes without a prompt.
    """
    if settings.picture is None:
        return _read_example(settings, generation, caches, held_out)
    if settings.key is not None:
        raise ValueError(f"key={settings.key} and picture={settings.picture} name two pictures; give one")
    if settings.prompt is None:
        raise ValueError(f"picture={settings.picture} has no caption; give prompt=… that says what it shows")
    image = read_given_picture(settings.picture, generation).to(generation.device)
    others = [] if settings.others is None else read_texts(settings.others, setting="others")
    return generation, OwnPicture(settings.picture, image, generation.encode(image), settings.prompt, others, False)


def _read_example(
    settings: ExplainSettings, generation: Generation, caches: str | Sequence[str] | None, held_out: float | None
) -> tuple[Generation, OwnPicture]:
    if caches is None:
        raise ValueError(
            f"run_dir={settings.run_dir} encoded its pictures while it trained and kept none; give picture=FILE and prompt=…"
        )
    cache, example = find_example(open_caches(caches), settings.key, held_out=held_out)
    moments = cache.moments(torch.tensor([example]), torch.tensor([0]))
    raw = moments.mean.to(generation.device, torch.float32)
    latents = Scaling.of(generation.autoencoder).to_model(raw)
    factor = generation.autoencoder.factor
    generation = replace(generation, size=(latents.shape[2] * factor, latents.shape[3] * factor))
    captions = cache.captions_of(example)
    prompt = settings.prompt if settings.prompt is not None else captions[0] if captions else ""
    if settings.others is None:
        others = [text for text in dict.fromkeys(cache.caption_texts) if text and text not in (prompt, *captions)][:OTHERS]
    else:
        others = read_texts(settings.others, setting="others")
    return generation, OwnPicture(cache.name(example), generation.decode(latents), latents, prompt, others, True)


def find_example(caches: Sequence[LatentCache], key: str | None, *, held_out: float | None) -> tuple[LatentCache, int]:
    """Return the cache that has an example, and its number there; of no key, the first that was held out, or else the first.

    Raises:
        ValueError: no cache has it; it names the nearest one.
    """
    if key is None:
        kept = [(cache, split_held_out(cache, held_out)[1]) for cache in caches]
        return next(((cache, int(numbers[0])) for cache, numbers in kept if len(numbers)), (caches[0], 0))
    for cache in caches:
        for number, entry in enumerate(cache.entries):
            if entry.key == key:
                return cache, number
    known = [entry.key for cache in caches for entry in cache.entries]
    raise ValueError(f"key={key} is no example of the data{nearest(key, known)}")
