"""`ldm-train check`: read what encoding will read, and list what cannot be used."""

from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import Progress

from ldm_train.data.inspection import undecodable, usable
from ldm_train.tasks.config import build


def run(config: DictConfig) -> int:
    everything = list(build(config.source))
    items, problems = usable(everything)
    with Progress() as progress:
        task = progress.add_task("reading pictures", total=len(items))
        problems |= undecodable(items, config.image_size, progress=lambda: progress.advance(task))
    good = [item for item in items if item.key not in problems]
    for key, problem in sorted(problems.items()):
        print(f"{key}: {problem}")
    captions = Counter(caption for item in good for caption in item.captions)
    held_out = sum(item.held_out for item in good)
    print(f"{len(everything)} pictures: {len(good)} can be used ({held_out} held out), {len(problems)} cannot")
    print(
        f"{len(captions)} distinct captions"
        + (f", the longest has {max(map(len, captions))} characters" if captions else "")
    )
    if config.cache is not None and good:
        print(_compare(Path(config.cache), len(good)))
    return 1 if problems or not good else 0


def _compare(cache: Path, usable_pictures: int) -> str:
    from ldm_train.data.cache import read_manifest

    if not (cache / "manifest.json").is_file():
        return f"{cache} is not there yet: `ldm-train encode` makes it"
    manifest = read_manifest(cache)
    return f"{cache} holds {manifest.entries} of these {usable_pictures} pictures, at {manifest.image_size} pixels"
