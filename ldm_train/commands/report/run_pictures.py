"""A report's pictures: what a run drew while it trained, small enough together to be mailed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldm_train.commands.report.run_curves import Shown
from ldm_train.reports.embedded_pictures import LARGEST_PICTURE, embed_picture
from ldm_train.reports.page_blocks import PageBlock, Pictures, WholePicture
from ldm_train.util.inputs import READ_ERRORS, read_input
from ldm_train.util.safe_json import read_json

BUDGET = 3_000_000  # characters of all pictures of a page
SMALL = (800, 4000)  # pixels at most of a picture, once half of that is used
GROWTH = 12  # steps of a grid that is put together here
LISTED = 24  # prompts named beneath a grid
ACROSS, GROWN = 8, 12  # pictures side by side in a grid, and in the one that grows
MARGIN = 64  # pixels of the latter, for the steps' numbers
MAX_BYTES = 64 * 2**20  # of a picture's file


@dataclass
class Budget:
    """How much of a page its pictures may still take; `left_out` had no room, `smaller` were made so."""

    left: int = BUDGET
    left_out: int = 0
    smaller: int = 0

    def read(self, path: Path, alt: str, label: str = "") -> WholePicture | None:
        """A picture's file; None where there is none, or no room for it."""
        try:
            content = read_input(path, limit=MAX_BYTES)
        except FileNotFoundError:
            return None
        except READ_ERRORS:  # such as a pipe, or too many bytes: shown as one that does not open
            content = b""
        tight = self.left < BUDGET / 2
        found = embed_picture(content, most=SMALL if tight else LARGEST_PICTURE)
        size = 0 if found is None else len(found.address)
        if size > self.left:
            self.left_out += 1
            return None
        self.left -= size
        self.smaller += found is not None and tight and (found.width, found.height) >= SMALL
        return WholePicture(found, alt, label)

    @property
    def told(self) -> list[str]:
        """What became of those that were too many."""
        smaller = f"{self.smaller:,} pictures are shown smaller than they are, so that this page stays small"
        left_out = f"{self.left_out:,} pictures had no room on this page; they are in the run's folder `samples`"
        return [text for count, text in ((self.smaller, smaller), (self.left_out, left_out)) if count]


def newest(shown: Sequence[Shown], budget: Budget) -> list[PageBlock]:
    """Each run's last grid of pictures."""
    return [_newest(one, budget) for one in shown]


def _newest(one: Shown, budget: Budget) -> PageBlock:
    prompts, scales = _asked(one.run.path)
    told = "Drawn by the averaged weights"
    if len(scales) > 1:
        told += f", a row for each guidance scale: {', '.join(scales)}"
    found = _latest(one, budget, "", told)
    across = len(prompts) if len(scales) > 1 else min(ACROSS, len(prompts))
    return replace(found, columns=prompts if len(prompts) <= LISTED else (), across=across)


def strips(shown: Sequence[Shown], budget: Budget) -> list[PageBlock]:
    """The reverse and the forward process of one picture."""
    reverse = "From noise to picture: above the latents, below what the network takes the clean ones for"
    found: list[PageBlock] = []
    for one in shown:
        found.append(_latest(one, budget, "reverse-", reverse))
        found.append(_latest(one, budget, "forward-", "From picture to noise, as training meets it"))
    return found


def held_out(shown: Sequence[Shown], budget: Budget) -> list[PageBlock]:
    """Pictures that were kept from training, beside what the model makes of their captions."""
    told = "Held-out pictures above, drawn from their captions below"
    return [_latest(one, budget, "held-out-", told) for one in shown]


def reconstructions(shown: Sequence[Shown], budget: Budget) -> list[PageBlock]:
    """What an autoencoder makes of pictures."""
    return [_latest(one, budget, "", "Pictures above, reconstructed below") for one in shown]


def growth(shown: Sequence[Shown], budget: Budget) -> list[PageBlock]:
    """The whole training in one picture for each run: a row a step, a column a prompt."""
    return [_grown(one, budget) for one in shown]


def _grown(one: Shown, budget: Budget) -> PageBlock:
    steps, (prompts, scales) = one.run.samples(), _asked(one.run.path)
    told = one.label("A row a step; a column a prompt")
    alt = "a row of pictures for each of some steps, a column for each prompt"
    drawn = budget.read(one.run.path / "samples" / "growth.png", alt)
    if drawn is not None and drawn.embedded is not None:
        columns = prompts[:GROWN]
        return Pictures([drawn], told, columns, across=len(columns), indent=min(50.0, 100 * MARGIN / drawn.embedded.width))
    kept = [list(steps.items())[i] for i in _evenly(len(steps), GROWTH)] if len(steps) > 1 else []
    rows = [budget.read(path, f"pictures drawn at step {step:,}", f"step {step:,}") for step, path in kept]
    aligned = len(scales) > 1 or len(prompts) <= ACROSS
    columns = prompts if aligned and len(prompts) <= LISTED else ()
    return Pictures([row for row in rows if row is not None], told, columns, across=len(columns), rows=True)


def _latest(one: Shown, budget: Budget, prefix: str, told: str) -> Pictures:
    """The newest picture with this prefix; the one before it where that is just being written."""
    for step, path in list(reversed(one.run.samples(prefix).items()))[:2]:
        found = budget.read(path, f"{told}, at step {step:,}")
        if found is not None and found.embedded is not None:
            return Pictures([found], one.label(f"{told}; step {step:,}"))
    broken = [WholePicture(None, told)] if one.run.samples(prefix) and not budget.left_out else []
    return Pictures(broken, one.label(told))


def _asked(run_dir: Path) -> tuple[tuple[str, ...], list[str]]:
    """The prompts of a grid, and the guidance scales; of older runs neither is known."""
    try:
        found = read_json(run_dir / "samples" / "prompts.json")
        if not isinstance(found, dict):
            return (), []
        return tuple(str(prompt) for prompt in found["prompts"]), [str(scale) for scale in found["guidance"]]  # type: ignore
    except (OSError, ValueError, LookupError, TypeError):
        return (), []


def _evenly(count: int, most: int) -> list[int]:
    return [] if not count else np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
