"""Record in a run directory what the run is trained on, so that a report can judge the run without its cache."""

import json
from contextlib import suppress
from pathlib import Path

import torch

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.training.run_files import DATA, RECONSTRUCTIONS
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import MAX_PICTURE, READ_ERRORS, read_input
from ldm_train.util.processes import launched_rank
from ldm_train.util.safe_json import Json


def describe_data(data: CachedLatents) -> dict[str, Json]:
    """Return counts of pictures and captions that are trained on, and what the latents keep of the pictures."""
    index = data.latents.index
    trained = torch.cat(data.train).unique()
    sets = torch.repeat_interleave(torch.arange(len(data.latents.sets)), torch.tensor(data.latents.sets))
    numbers = index.caption_of(trained, torch.zeros(len(trained))) + (sets[trained] << 32)  # each cache counts from 0
    _, counts = numbers.unique(return_counts=True)
    quality = data.latents.quality.measured
    del quality["sample"]
    return {
        "pictures": len(index.picture[trained].unique()),
        "held_out": len(data.held_out),
        "captions": len(counts),
        "share_of_commonest_caption": round(counts.max().item() / len(trained), 4),
        **quality,
    }


def record_data(run_dir: Path, data: CachedLatents) -> None:
    """Write `data.json` into a run directory, and a copy of the cache's reconstructions; in the first process only."""
    if launched_rank() > 0:
        return
    atomic_write(run_dir / DATA, json.dumps(describe_data(data), indent=2) + "\n")
    picture = data.latents.quality.reconstructions
    if picture is not None:
        with suppress(*READ_ERRORS):  # the number says the same
            atomic_write(run_dir / RECONSTRUCTIONS, read_input(picture, limit=MAX_PICTURE))
