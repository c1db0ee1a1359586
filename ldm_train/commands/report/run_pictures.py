"""Show the pictures that runs drew during training, within a budget that keeps the page small enough for mail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldm_train.commands.report.run_curves import ReportedRun
from ldm_train.reports.embedded_pictures import LARGEST_PICTURE, embed_picture
from ldm_train.reports.page_blocks import PageBlock, Pictures, WholePicture
from ldm_train.training.run_files import RECONSTRUCTIONS
from ldm_train.util.inputs import READ_ERRORS, read_input
from ldm_train.util.safe_json import read_json

BUDGET = 3_000_000  # characters for all pictures of a page
SMALL = (800, 4000)  # largest width and height of a picture, pixels, when half of the budget is used
GROWTH = 12  # rows of a growth picture that is composed here
LISTED = 24  # at most so many prompts are named below a grid
ACROSS, GROWN = 8, 12  # columns of a grid, and of growth.png
MARGIN = 64  # pixels at the left of growth.png, for the numbers of the steps
MAX_BYTES = 64 * 2**20  # the largest picture file that is read


@dataclass
class Budget:
    """The space for pictures on a page.

    Args:
        left: characters that are still free.
        left_out: number of pictures that had no room.
        smaller: number of pictures that were made smaller.
    """

    left: int = BUDGET
    left_out: int = 0
    smaller: int = 0

    def read(self, path: Path, alt: str, label: str = "") -> WholePicture | None:
        """Return the picture of a file, or None if there is no file or no room for it."""
        try:
            content = read_input(path, limit=MAX_BYTES)
        except FileNotFoundError:
            return None
        except READ_ERRORS:  # for example a pipe or a file that is too large: runs as a damaged picture
            content = b""
        tight = self.left < BUDGET / 2
        embedded = embed_picture(content, most=SMALL if tight else LARGEST_PICTURE)
        size = 0 if embedded is None else len(embedded.address)
        if size > self.left:
            self.left_out += 1
            return None
        self.left -= size
        self.smaller += embedded is not None and tight and (embedded.width, embedded.height) >= SMALL
        return WholePicture(embedded, alt, label)

    @property
    def notes(self) -> list[str]:
        """Return notes about pictures that were made smaller or left out."""
        smaller = f"{self.smaller:,} pictures are smaller than their files, to keep this page small"
        left_out = f"{self.left_out:,} pictures had no room on this page; they are in the run's folder `samples`"
        return [text for count, text in ((self.smaller, smaller), (self.left_out, left_out)) if count]


def show_newest(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return the newest grid of pictures of each run."""
    return [_newest(one, budget) for one in runs]


def _newest(one: ReportedRun, budget: Budget) -> PageBlock:
    (prompts, scales), kinds = _read_prompts(one.run.path), _read_kinds(one.run.path)
    caption = "Drawn with the averaged weights"
    if len(scales) > 1:
        caption += f", a row for each guidance scale: {', '.join(scales)}"
    pictures = _latest(one, budget, "", caption)
    widest = max((kinds.count(kind) for kind in kinds), default=len(prompts))  # trained and held out have rows of their own
    across = widest if len(scales) > 1 else min(ACROSS, widest)
    drawn = next((one.embedded for one in pictures.pictures if one.embedded), None)
    indent = min(50.0, 100 * MARGIN / drawn.width) if kinds and drawn else 0.0
    return replace(pictures, columns=prompts if len(prompts) <= LISTED else (), across=across, indent=indent)


def show_strips(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return the reverse and the forward process of one picture of each run."""
    reverse = "From noise to picture: the latents above, the network's estimate of the clean latents below"
    blocks: list[PageBlock] = []
    for one in runs:
        blocks.append(_latest(one, budget, "reverse-", reverse))
        blocks.append(_latest(one, budget, "forward-", "From picture to noise, as in training"))
    return blocks


def show_pairs(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return trained and held-out pictures of each run, with pictures drawn from their captions."""
    caption = "Pictures of the data above, pictures drawn from their captions below; first trained ones, then held-out ones"
    return [_latest(one, budget, "pairs-", caption) for one in runs]


def show_reconstructions(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return the reconstructions of each run of an autoencoder."""
    return [_latest(one, budget, "", "Pictures above, reconstructed below") for one in runs]


def show_decoded(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return pictures of each run's data that were encoded and decoded again, which is the best that it can draw."""
    blocks: list[PageBlock] = []
    for one in runs:
        psnr = one.run.data.get("psnr")
        caption = "Pictures above, encoded and decoded below"
        drawn = budget.read(one.run.path / RECONSTRUCTIONS, caption) if isinstance(psnr, float) else None
        if drawn is not None:
            blocks.append(Pictures([drawn], one.label(f"{caption}; PSNR {psnr:.1f} dB")))
    return blocks


def show_growth(runs: Sequence[ReportedRun], budget: Budget) -> list[PageBlock]:
    """Return the whole training of each run in one picture, with a row per step and a column per prompt."""
    return [_grown(one, budget) for one in runs]


def _grown(one: ReportedRun, budget: Budget) -> PageBlock:
    steps, (prompts, scales) = one.run.samples(), _read_prompts(one.run.path)
    caption = one.label("A row for each step, a column for each prompt")
    alt = "a row of pictures for each of some steps, a column for each prompt"
    drawn = budget.read(one.run.path / "samples" / "growth.png", alt)
    if drawn is not None and drawn.embedded is not None:
        columns = prompts[:GROWN]
        return Pictures(
            [drawn], caption, columns, across=len(columns), indent=min(50.0, 100 * MARGIN / drawn.embedded.width)
        )
    kept = [list(steps.items())[i] for i in _evenly(len(steps), GROWTH)] if len(steps) > 1 else []
    rows = [budget.read(path, f"pictures drawn at step {step:,}", f"step {step:,}") for step, path in kept]
    aligned = len(scales) > 1 or len(prompts) <= ACROSS
    columns = prompts if aligned and len(prompts) <= LISTED else ()
    return Pictures([row for row in rows if row is not None], caption, columns, across=len(columns), rows=True)


def _latest(one: ReportedRun, budget: Budget, prefix: str, caption: str) -> Pictures:
    """Return the newest picture with this prefix, or the one before it if the newest is being written at the moment."""
    for step, path in list(reversed(one.run.samples(prefix).items()))[:2]:
        picture = budget.read(path, f"{caption}, at step {step:,}")
        if picture is not None and picture.embedded is not None:
            return Pictures([picture], one.label(f"{caption}; step {step:,}"))
    broken = [WholePicture(None, caption)] if one.run.samples(prefix) and not budget.left_out else []
    return Pictures(broken, one.label(caption))


def _read_prompts(run_dir: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the prompts, with "trained" or "held out" if they are such captions, and the guidance scales of a grid.

    Both are empty if the file is missing or damaged.
    """
    try:
        content = read_json(run_dir / "samples" / "prompts.json")
        if not isinstance(content, dict):
            return (), []
        prompts, kinds = [str(prompt) for prompt in content["prompts"]], _read_kinds(run_dir)  # type: ignore[union-attr]
        named = [f"{kind}: {prompt}" for kind, prompt in zip(kinds, prompts, strict=False)]
        return tuple(named or prompts), [str(scale) for scale in content["guidance"]]  # type: ignore[union-attr]
    except (OSError, ValueError, LookupError, TypeError):
        return (), []


def _read_kinds(run_dir: Path) -> list[str]:
    """Return what each prompt is, "trained" or "held out"; nothing if they are no captions of examples, or it is unknown."""
    try:
        content = read_json(run_dir / "samples" / "prompts.json")
    except (OSError, ValueError):
        return []
    kinds = content.get("kinds") if isinstance(content, dict) else None
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else []


def _evenly(count: int, most: int) -> list[int]:
    return [] if not count else np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
