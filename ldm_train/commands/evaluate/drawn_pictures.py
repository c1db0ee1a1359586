"""Pictures drawn for an evaluation, kept in files: what was drawn once is not drawn again, also after a kill.

They lie in a folder named by all that decides them: the weights, the recipe and the prompts. Each one's noise is by its
number, so batches and processes leave them alone, to rounding.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
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
from ldm_train.util.files import atomic_write, is_temporary, make_folder
from ldm_train.util.ownership import FolderKind, read_mark

Painter = Callable[[list[str], Tensor], Tensor]
Opener = Callable[[EvaluateSettings], Painter]
KEPT = FolderKind("the drawn pictures of an evaluation", "drawn.json", frozenset({"drawn"}))
KEY, NUMBERED = re.compile(r"[0-9a-f]{16}"), re.compile(r"\d{6,}\.png")


@dataclass(frozen=True)
class Order:
    """Pictures to be drawn, the i-th of the i-th prompt with noise number i.

    Args:
        told: all that decides them but the prompts, in plain values.
        opener: of the config: what draws prompts with noise numbers (B,), as images (B, 3, H, W) in [-1, 1]; of a module, so
            that other processes find it.
    """

    config: EvaluateSettings
    prompts: list[str]
    told: dict[str, object]
    opener: Opener

    @property
    def key(self) -> str:
        text = json.dumps([self.told, self.prompts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept(out: Path) -> Path:
    """Where the pictures of a result are kept."""
    return out.with_name(f"{out.name}.pictures")


def forget_others(out: Path, orders: Sequence[Order]) -> None:
    """Remove the pictures of earlier results of the same name."""
    keys = {order.key for order in orders}
    for key in read_drawn(out) - keys:
        folder = kept(out) / key
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            if NUMBERED.fullmatch(path.name) or is_temporary(path):
                path.unlink()
        if not any(folder.iterdir()):  # else it holds a file of the user's
            folder.rmdir()
    if kept(out).is_dir():
        write_drawn(out, keys)


def read_drawn(out: Path) -> set[str]:
    """The names of the folders that evaluations drew into."""
    names = (read_mark(kept(out), KEPT) or {}).get("drawn")
    return {name for name in names if isinstance(name, str) and KEY.fullmatch(name)} if isinstance(names, list) else set()


def write_drawn(out: Path, keys: Collection[str]) -> None:
    if read_drawn(out) != set(keys):
        atomic_write(kept(out) / KEPT.mark, json.dumps({"drawn": sorted(keys)}, indent=2) + "\n")


def draw(order: Order, out: Path, paint: Painter, *, devices: int) -> list[Path]:
    """The files of the pictures; only those that are not there yet are drawn, in whole batches.

    Args:
        paint: this process's own.
        devices: processes that share the batches.
    """
    folder = kept(out) / order.key
    write_drawn(out, read_drawn(out) | {order.key})
    make_folder(folder)
    files = [folder / f"{number:06d}.png" for number in range(len(order.prompts))]
    batches = torch.arange(len(files)).split(order.config.batch_size)
    missing = [batch for batch in batches if not all(files[number].is_file() for number in batch.tolist())]
    if len(missing) < len(batches):
        print(f"{len(batches) - len(missing)} of {len(batches)} batches of pictures were drawn before")
    what = f"drawing {len(files)} pictures"
    if devices == 1 or len(missing) < 2:
        for batch in track(missing, what, disable=not missing):
            draw_batch(order, paint, batch, files)
    else:
        draw_together(order, missing, files, devices=min(devices, len(missing)), what=what)
    return files


def draw_batch(order: Order, paint: Painter, numbers: Tensor, files: Sequence[Path]) -> None:
    """Draw and write the pictures of these numbers (B,)."""
    chosen = numbers.tolist()
    drawn = paint([order.prompts[number] for number in chosen], numbers)
    if broken := find_nonfinite(drawn):
        number = chosen[broken[0]]
        raise ValueError(f"the picture of {order.prompts[number]!r} (number {number}) contains NaN or infinity")
    for number, image in zip(chosen, to_bytes(drawn).cpu(), strict=True):
        told = order.told | {"prompt": order.prompts[number], "number": number}
        save_png(image, files[number], {"ldm_train": json.dumps(told, ensure_ascii=False)})


def draw_together(order: Order, batches: Sequence[Tensor], files: Sequence[Path], *, devices: int, what: str) -> None:
    """Share the batches among processes of their own."""
    shared = (order.config, order.prompts, order.told, order.opener, list(batches), list(files), devices, current_grants())
    context = torch.multiprocessing.spawn(draw_share, shared, nprocs=devices, join=False, daemon=True)
    with Progress() as progress:
        task = progress.add_task(what, total=len(files))
        try:
            while not context.join(timeout=0.2):
                progress.update(task, completed=len(list(files[0].parent.glob("*.png"))))
        except torch.multiprocessing.ProcessRaisedException as error:
            kind, _, reason = str(error).strip().splitlines()[-1].partition(": ")
            if kind not in ("ValueError", "OSError"):
                raise
            raise ValueError(reason) from error


def draw_share(
    rank: int,
    config: EvaluateSettings,
    prompts: list[str],
    told: dict[str, object],
    opener: Opener,
    batches: list[Tensor],
    files: list[Path],
    devices: int,
    grants: Grants,
) -> None:
    """What one of the processes does: open the model on its own device and draw every so many batches."""
    if str(config.device).startswith("cuda"):
        config = config.with_values(device=f"cuda:{rank}")
    torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    order = Order(config, prompts, told, opener)
    with granted(grants):
        paint = opener(config)
    for batch in batches[rank::devices]:
        draw_batch(order, paint, batch, files)


def processes(config: EvaluateSettings, device: torch.device) -> int:
    """How many processes draw.

    Raises:
        ValueError: more than there are GPUs.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" and config.device in ("auto", "cuda") else 1
    if config.devices == "auto":
        return gpus
    if device.type != "cpu" and config.devices > gpus:
        raise ValueError(
            f"devices={config.devices}: device={config.device} has {gpus}; devices=auto takes all that there are"
        )
    return int(config.devices)


def in_batches(files: Sequence[Path], size: int) -> Iterator[Tensor]:
    """The pictures of files as they are, (B, 3, H, W) in [-1, 1], in their order: at most so many, of one shape."""
    batch: list[Tensor] = []
    for file in files:
        try:
            image = read_image(file, None)
        except DECODE_ERRORS as error:
            raise ValueError(
                f"{file} cannot be measured: {describe_decode_error(error)}; remove it, or replace it"
            ) from error
        if batch and (len(batch) == size or image.shape != batch[0].shape):
            yield to_signed(torch.stack(batch))
            batch = []
        batch.append(image)
    if batch:
        yield to_signed(torch.stack(batch))
