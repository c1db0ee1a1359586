"""Draw the pictures of an evaluation into files, so that a repeated or interrupted evaluation draws only those missing.

The pictures are in a folder named after everything that decides them: the weights, the recipe and the prompts. The noise of
a picture depends on its number only, so its content does not depend on batches and processes, up to rounding.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.progress import Progress, track
from torch import Tensor

from ldm_train.data.pictures.images import (
    DECODE_ERRORS,
    describe_decode_error,
    find_nonfinite,
    read_image,
    save_png,
    to_bytes,
    to_signed,
)
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.settings.trust import Grants, current_grants, granted
from ldm_train.types import Given
from ldm_train.util.files import atomic_write, is_temporary, make_folder
from ldm_train.util.ownership import FolderKind, read_mark
from ldm_train.weights.fingerprint import digest_tensors

Painter = Callable[[list[str], Tensor, dict[str, Given]], Tensor]
Opener = Callable[[EvaluateSettings], Painter]
DRAWN_PICTURES = FolderKind("the drawn pictures of an evaluation", "drawn.json", frozenset({"drawn"}))
KEY, NUMBERED = re.compile(r"[0-9a-f]{16}"), re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class DrawingJob:
    """Pictures to draw: picture i from prompt i with noise number i.

    Args:
        metadata: plain values that decide the pictures, without the prompts.
        opener: builds a painter from the settings. A painter draws prompts with noise numbers (B,), and what is given for
            the model's conditions, as images (B, 3, H, W) in [-1, 1]. Must be a module's function or class, so that other
            processes can import it.
        given: what the pictures are conditioned on besides the prompts, by name, a row for each.
    """

    settings: EvaluateSettings
    prompts: list[str]
    metadata: dict[str, object]
    opener: Opener
    given: dict[str, Given] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return the name of the pictures' folder: a hash of the metadata, the prompts and the conditions."""
        given = {f"{name}.{part}": values for name, rows in self.given.items() for part, values in vars(rows).items()}
        text = json.dumps([self.metadata, self.prompts, *([digest_tensors(given)] if given else [])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def locate_pictures(out: Path) -> Path:
    """Return the folder in which the pictures of a result are kept."""
    return out.with_name(f"{out.name}.pictures")


def remove_other_pictures(out: Path, jobs: Sequence[DrawingJob]) -> None:
    """Remove the pictures of earlier results with the same name."""
    keys = {job.key for job in jobs}
    for key in read_drawn_keys(out) - keys:
        folder = locate_pictures(out) / key
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            if NUMBERED.fullmatch(path.name) or is_temporary(path):
                path.unlink()
        if not any(folder.iterdir()):  # otherwise the user put a file there
            folder.rmdir()
    if locate_pictures(out).is_dir():
        write_drawn_keys(out, keys)


def read_drawn_keys(out: Path) -> set[str]:
    """Return the names of the folders that evaluations drew into."""
    names = (read_mark(locate_pictures(out), DRAWN_PICTURES) or {}).get("drawn")
    return {name for name in names if isinstance(name, str) and KEY.fullmatch(name)} if isinstance(names, list) else set()


def write_drawn_keys(out: Path, keys: Collection[str]) -> None:
    """Record the names of the folders that evaluations drew into, if they changed."""
    if read_drawn_keys(out) != set(keys):
        atomic_write(locate_pictures(out) / DRAWN_PICTURES.mark, json.dumps({"drawn": sorted(keys)}, indent=2) + "\n")


def draw_pictures(job: DrawingJob, out: Path, paint: Painter, *, devices: int) -> list[Path]:
    """Draw the pictures that do not exist yet, in complete batches; return the files of all.

    Args:
        paint: the painter of this process.
        devices: number of processes that share the batches.
    """
    folder = locate_pictures(out) / job.key
    write_drawn_keys(out, read_drawn_keys(out) | {job.key})
    make_folder(folder)
    files = [folder / f"{number:06d}.png" for number in range(len(job.prompts))]
    assert job.settings.batch_size is not None
    batches = torch.arange(len(files)).split(job.settings.batch_size)
    missing = [batch for batch in batches if not all(files[number].is_file() for number in batch.tolist())]
    if len(missing) < len(batches):
        print(f"{len(batches) - len(missing)} of {len(batches)} batches of pictures exist already and are not drawn again")
    description = f"drawing {len(files)} pictures"
    if devices == 1 or len(missing) < 2:
        for batch in track(missing, description, disable=not missing):
            draw_batch(job, paint, batch, files)
    else:
        draw_in_processes(job, missing, files, devices=min(devices, len(missing)), description=description)
    return files


def draw_batch(job: DrawingJob, paint: Painter, numbers: Tensor, files: Sequence[Path]) -> None:
    """Draw the pictures with these numbers (B,) and write them.

    Raises:
        ValueError: a picture contains NaN or infinity.
    """
    chosen = numbers.tolist()
    drawn = paint([job.prompts[n] for n in chosen], numbers, {name: rows[numbers] for name, rows in job.given.items()})
    if broken := find_nonfinite(drawn):
        number = chosen[broken[0]]
        raise ValueError(f"the picture of {job.prompts[number]!r} (number {number}) contains NaN or infinity")
    for number, image in zip(chosen, to_bytes(drawn).cpu(), strict=True):
        metadata = job.metadata | {"prompt": job.prompts[number], "number": number}
        save_png(image, files[number], {"ldm_train": json.dumps(metadata, ensure_ascii=False)})


def draw_in_processes(
    job: DrawingJob, batches: Sequence[Tensor], files: Sequence[Path], *, devices: int, description: str
) -> None:
    """Draw batches in several new processes, one per device.

    Raises:
        ValueError: a process raised ValueError or OSError.
    """
    shared = (job, list(batches), list(files), devices, current_grants())
    context = torch.multiprocessing.spawn(draw_share, shared, nprocs=devices, join=False, daemon=True)
    with Progress() as progress:
        task = progress.add_task(description, total=len(files))
        try:
            while not context.join(timeout=0.2):
                progress.update(task, completed=len(list(files[0].parent.glob("*.png"))))
        except torch.multiprocessing.ProcessRaisedException as error:
            kind, _, reason = str(error).strip().splitlines()[-1].partition(": ")
            if kind not in ("ValueError", "OSError"):
                raise
            raise ValueError(reason) from error


def draw_share(rank: int, job: DrawingJob, batches: list[Tensor], files: list[Path], devices: int, grants: Grants) -> None:
    """Open the model on the device of this process and draw every `devices`-th batch."""
    if str(job.settings.device).startswith("cuda"):
        job = replace(job, settings=job.settings.with_values(device=f"cuda:{rank}"))
    torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    with granted(grants):
        paint = job.opener(job.settings)
    for batch in batches[rank::devices]:
        draw_batch(job, paint, batch, files)


def count_processes(settings: EvaluateSettings, device: torch.device) -> int:
    """Return how many processes draw.

    Raises:
        ValueError: `devices` is more than the number of GPUs.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" and settings.device in ("auto", "cuda") else 1
    if settings.devices == "auto":
        return gpus
    if device.type != "cpu" and settings.devices > gpus:
        raise ValueError(
            f"devices={settings.devices} is more than the {gpus} of device={settings.device}; devices=auto uses all of them"
        )
    return int(settings.devices)


def read_picture_batches(files: Sequence[Path], size: int) -> Iterator[Tensor]:
    """Yield the pictures of files in job, in batches (B, 3, H, W) in [-1, 1] of one shape, with B at most `size`.

    Raises:
        ValueError: a file cannot be decoded.
    """
    batch: list[Tensor] = []
    for file in files:
        try:
            image = read_image(file, None)
        except DECODE_ERRORS as error:
            raise ValueError(f"{file} cannot be measured: {describe_decode_error(error)}; remove or replace it") from error
        if batch and (len(batch) == size or image.shape != batch[0].shape):
            yield to_signed(torch.stack(batch))
            batch = []
        batch.append(image)
    if batch:
        yield to_signed(torch.stack(batch))
