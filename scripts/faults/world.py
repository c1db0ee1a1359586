"""A small world of files: drawn pictures, caches and runs of a few steps, and what a user keeps next to them.

Every command of the campaign starts from the same world and writes into its folders `made` (nothing of ours is there) and
`again` (an earlier result is there), or continues the run `cut`.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from measuring import drawn

from faults.shim import COUNTING, Action, Fault, read_log
from faults.zygote import Child, Ended
from ldm_train.settings.composition import compose

SIDE = 8
TEXT = ["text_encoder.width=8", "text_encoder.layers=1", "text_encoder.heads=1"]
ENCODE = ["encode", "autoencoder=identity", f"image_size={SIDE}", *TEXT, "scale_check=false", "batch_size=4"]
STEPS = ["trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "threads=1", "batch_size=4"]
STEPS += ["max_steps=4", "checkpoint.every=2", "checkpoint.keep=2", "health.every=2", "lr_schedule.warmup_steps=1"]
TRAIN = ["train", *STEPS, "network.channels=[8,8]", "network.head_size=8", "network.expansion=1", "features=null"]
TRAIN += ["metrics.every=null", "validation.every=2", "validation.repeats=1", "checkpoint.best=validation_loss"]
TRAIN += ["pictures.every=2", "pictures.steps=2", "pictures.count=1", "ema=power", "ema.snapshot_every=2", "cache=cache"]
AUTOENCODER = ["train_autoencoder", *STEPS, "source.path=pictures", "architecture.channels=[8,8]", "architecture.groups=4"]
AUTOENCODER += [f"image_size={SIDE}", "pictures.every=2"]
SAMPLE = ["sample", "run_dir=run", "steps=2", "device=cpu"]
EVALUATE = ["evaluate", "run_dir=run", "steps=1", "device=cpu", "resamples=2", "features=null", "prompts=[a,b]"]
FOLDER = ["export", "run_dir=run", "layout=diffusers"]

COMMANDS: dict[str, list[str]] = {
    "encode": [*ENCODE, "source.path=pictures", "cache=made/cache"],
    "encode again": [*ENCODE, "source.path=pictures", "cache=again/cache"],
    "train": [*TRAIN, "run_dir=made/run"],
    "train continued": [*TRAIN, "run_dir=cut"],
    "train_autoencoder": [*AUTOENCODER, "run_dir=made/autoencoder"],
    "export file": ["export", "run_dir=run", "out=made/weights.safetensors"],
    "export file again": ["export", "run_dir=run", "out=again/weights.safetensors"],
    "export folder": [*FOLDER, "out=made/pipeline"],
    "export folder again": [*FOLDER, "out=again/pipeline"],
    "sample": [*SAMPLE, "prompts=[a,b]", "out=made/pictures"],
    "sample again": [*SAMPLE, "prompts=[a,b]", "out=again/pictures"],
    "evaluate": [*EVALUATE, "out=made/numbers.json"],
    "evaluate again": [*EVALUATE, "out=again/numbers.json"],
    "report": ["report", "run_dir=run", "out=made/page.html"],
    "report again": ["report", "run_dir=run", "out=again/page.html"],
}
PREPARING: list[list[str]] = [
    [*ENCODE, "source.path=pictures", "cache=cache"],
    [*ENCODE, "source.path=few", "cache=again/cache"],
    [*TRAIN, "run_dir=run"],
    ["export", "run_dir=run", "out=again/weights.safetensors", "weights=raw"],
    [*FOLDER, "out=again/pipeline", "weights=raw"],
    [*SAMPLE, "prompts=[c,d,e]", "out=again/pictures"],
    [*EVALUATE, "out=again/numbers.json", "seed=1"],
    ["report", "run_dir=cut", "out=again/page.html"],
]
WRITTEN = ("made", "again", "cut")  # folders that the commands write into
# What a user keeps next to the outputs, also under the names that a program might take for its own temporary ones.
KEPT = ["notes.txt", "made/photo.txt", "again/photo.txt", "cut/notes.txt", "tmp/mine.txt"]
KEPT += [f"made/{name}/mine.txt" for name in ("cache.old", "cache.writing", "pipeline.writing", "pipeline.replaced")]
KEPT += [f"made/{name}" for name in ("weights.safetensors.writing", "numbers.json.tmp", "page.html.writing")]


@dataclass(frozen=True)
class World:
    """The world in a folder `room`; `restore` makes it anew from what was prepared once."""

    room: Path
    prepared: Path

    @property
    def path(self) -> Path:
        return self.room / "world"

    @property
    def log(self) -> Path:
        return self.room / "operations"

    def start(self, words: Sequence[str], fault: Fault = COUNTING, *, name: str = "") -> Child:
        """Start a command line in the world; `name` tells its files from another one's."""
        output, log = self.room / f"output{name}", self.room / f"operations{name}"
        return Child(words, folder=self.path, output=output, log=log, roots=[self.path], fault=fault)

    def run(self, words: Sequence[str], fault: Fault = COUNTING, *, name: str = "") -> Ended:
        """Run a command line in the world to its end."""
        ended = self.start(words, fault, name=name).wait()
        assert ended is not None, "nothing stops it"
        return ended

    def starts(self) -> str:
        """How the starts of all runs ended, by run directory."""
        found = {}
        for path in sorted(self.path.rglob("run.json")):
            with suppress(ValueError, KeyError):
                ended = [start.get("ended") for start in json.loads(path.read_text())["starts"]]
                found[str(path)] = [end and end["as"] for end in ended]
        return json.dumps(found)

    def restore(self) -> None:
        """Make the world as it was when it was prepared."""
        shutil.rmtree(self.path, ignore_errors=True)
        copy_tree(self.prepared, self.path)

    def prepare(self) -> None:
        """Draw, encode, train, and do each command once before.

        Raises:
            RuntimeError: a command failed.
        """
        for words in COMMANDS.values():
            compose(words[0], words[1:])  # which keeps what all children need
        for folder, count in (("pictures", 7), ("few", 4)):
            draw(self.path / folder, count)
        for folder in ("made", "again", "tmp"):
            (self.path / folder).mkdir()
        for words in PREPARING[:3]:
            self._must(words)
        self._cut()
        for words in PREPARING[3:]:
            self._must(words)
        for name in KEPT:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(f"{name} is a user's\n")
        copy_tree(self.path, self.prepared)

    def _must(self, words: Sequence[str]) -> None:
        ended = self.run(words)
        if ended.code:
            raise RuntimeError(f"{' '.join(words)} ended with {ended.code} where nothing was wrong:\n{ended.output}")

    def _cut(self) -> None:
        """A run that was killed after its third step, when there is a checkpoint of the second."""
        words = [*TRAIN, "run_dir=cut"]
        self._must(words)
        operations = read_log(self.log)
        saved = next(op.number for op in operations if op.name == "rename" and op.path.endswith("last.ckpt"))
        logged = [op.number for op in operations if op.name == "write" and op.path.endswith("cut/metrics.jsonl")]
        shutil.rmtree(self.path / "cut")
        ended = self.run(words, Fault("kill", 1 + next(at for at in logged if at > saved), Action.KILL))
        if ended.code >= 0:
            raise RuntimeError(f"the run that was to be cut ended with {ended.code}:\n{ended.output}")


def draw(folder: Path, count: int) -> None:
    """Captioned pictures, of which the last is held out."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        drawn(number, SIDE).save(folder / f"{number}.png")
        split = {"split": "held_out"} if number == 3 else {}
        rows.append(json.dumps({"file_name": f"{number}.png", "text": f"wave {number}", **split}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; names of one file stay names of one file."""
    names: dict[int, Path] = {}
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        new, status = target / path.relative_to(source), path.lstat()
        if path.is_dir():
            new.mkdir()
        elif status.st_ino in names:
            new.hardlink_to(names[status.st_ino])
        else:
            shutil.copy2(path, new)
            names[status.st_ino] = new
