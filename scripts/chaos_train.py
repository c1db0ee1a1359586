"""Kill a training again and again, start it by the same command, and compare what comes out with an undisturbed run's.

    python scripts/chaos_train.py --out docs/results/chaos_train.json
    python scripts/chaos_train.py --processes 2 --kills 10 --out docs/results/chaos_train_ddp.json
    python scripts/chaos_train.py --background

Kills are SIGKILLs: at a moment of a step that chance decides, between two micro-batches, in the middle of writing a
checkpoint, and between its renaming and what follows. The data are drawn here; no network is needed.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measuring import check, drawn, failures, write_results

SIDE, PICTURES, BATCH, ACCUMULATION, EVERY = 16, 40, 8, 4, 7
DEATH = "LDM_TRAIN_CHAOS"  # "KIND STEP RANK SHARE": where the next process is to die
INSIDE = ("between micro-batches", "writing", "renamed")  # kinds of death that the process dies by itself
TENSORS = ("state_dict", "callbacks", "optimizer_states", "lr_schedulers")


@dataclass(frozen=True)
class Death:
    """One kill: how, at which step, of which rank, and of a file that is being written at which share of it."""

    kind: str
    step: int
    rank: int = 0
    share: float = 0.5


@dataclass(frozen=True)
class Run:
    """The training that is killed."""

    cache: Path
    run_dir: Path
    processes: int
    steps: int
    background: bool = False

    def start(self, death: Death | None = None) -> subprocess.Popen[bytes]:
        """The same command every time; only the environment says where it is to die."""
        ddp = [f"trainer.devices={self.processes}", "trainer.strategy=ddp"] if self.processes > 1 else []
        words = [f"cache={self.cache}", f"run_dir={self.run_dir}", f"max_steps={self.steps}", "trainer.accelerator=cpu"]
        words += [f"batch_size={BATCH}", f"micro_batch_size={BATCH // ACCUMULATION // self.processes}", "threads=1"]
        words += ["network.channels=[16,32]", "network.head_size=8", "network.expansion=1", "network.dropout=0.1"]
        words += ["optimizer.lr=1e-3", "trainer.log_every_n_steps=1", f"checkpoint.every={EVERY}", "checkpoint.keep=2"]
        words += [f"checkpoint.background={str(self.background).lower()}"]
        words += ["checkpoint.best=validation_loss", "validation.every=20", "validation.repeats=1"]
        words += ["pictures.every=100", "pictures.steps=4", "pictures.count=2"]
        words += ["metrics.every=50", "metrics.steps=2", "metrics.count=4"]
        dying = {DEATH: f"{death.kind}|{death.step}|{death.rank}|{death.share}"} if death and death.kind in INSIDE else {}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, __file__, "train", *words, *ddp],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dying,
            )

    @property
    def log(self) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    @property
    def last(self) -> Path:
        return self.run_dir / "checkpoints" / "last.ckpt"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def step_reached(self) -> int:
        """The last step in metrics.jsonl; a line that is being written does not count."""
        try:
            found = re.findall(rb'^\{"step": (\d+),.*\}$', (self.run_dir / "metrics.jsonl").read_bytes()[-4000:], re.M)
        except FileNotFoundError:
            return 0
        return int(found[-1]) if found else 0

    def kill(self, death: Death) -> tuple[bool, float]:
        """Run until the death; whether it came to that, and seconds until no process of the run was left after it."""
        first = not self.last.exists()
        process = self.start(death)
        while process.poll() is None and death.kind not in INSIDE:
            # Before it says where it goes on from, the metrics are those of the process before.
            if (first or "continuing" in self.said()) and self.step_reached() >= death.step:
                time.sleep(death.share * 0.2)
                victim = process.pid if death.rank == 0 else child_of(process.pid)
                if victim is not None:
                    os.kill(victim, signal.SIGKILL)
                    break
            time.sleep(0.002)
        code, start = process.wait(), time.perf_counter()
        while alive(process.pid) and time.perf_counter() - start < 90:
            time.sleep(0.05)
        return code != 0, time.perf_counter() - start


def child_of(pid: int) -> int | None:
    """The first process that another one started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def alive(session: int) -> list[int]:
    """The processes of a session that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(own) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def deaths(kills: int, draws: random.Random, *, first: int, steps: int, processes: int) -> list[Death]:
    """All kinds by turns, at steps that rise over the run, from a first one on."""
    kinds = ["at any moment", *INSIDE]
    places = sorted(draws.sample(range(first, steps - EVERY), kills))
    return [
        Death(kinds[number % len(kinds)], step, draws.randrange(processes), draws.uniform(0.05, 0.95))
        for number, step in enumerate(places)
    ]


def campaign(run: Run, kills: int, seed: int) -> dict[str, object]:
    """Kill and start again, then let it end."""
    made, starts, left = Counter[str](), [], []
    first = (2 if run.background else 1) * EVERY + 1  # the second checkpoint waits for the first one
    for death in deaths(kills, random.Random(seed), first=first, steps=run.steps, processes=run.processes):
        died, seconds = run.kill(death)
        came = re.search(r"continuing .* at step (\d+)", run.said())
        starts.append(int(came[1]) if came else 0)
        left.append(seconds)
        reported = f"killed {death.kind}, rank {death.rank}, at step {death.step}; it had begun at {starts[-1]}"
        check(f"{reported}; a whole checkpoint of step {read_step(run.last)} is there", died)
        made[death.kind] += died
    process = run.start()
    ended = process.wait()
    came = re.search(r"continuing .* at step (\d+)", run.said())
    starts.append(int(came[1]) if came else 0)
    check("the last start ends the run", ended == 0)
    check("every restart began at a step above 0", all(start > 0 for start in starts[1:]))
    check("no process outlived a kill by a minute", max(left) < 60)
    return {"kills": dict(made), "restarted_at": starts[1:], "longest_survivor_s": round(max(left), 1)}


def compare(run: Run, undisturbed: Run) -> dict[str, bool]:
    """Bit for bit: weights, averages, optimizer, metrics, pictures; and a dashboard without a gap."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ldm_train.training.loggers.tensorboard import name_card

    one, other = (torch.load(r.last, map_location="cpu", weights_only=True) for r in (run, undisturbed))
    lines = (run.run_dir / "metrics.jsonl").read_text()
    steps = list(range(1, run.steps + 1))
    pictures = [{p.name: p.read_bytes() for p in (r.run_dir / "samples").iterdir()} for r in (run, undisturbed)]
    events = EventAccumulator(str(run.run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    curve = events.Scalars(name_card("loss"))
    results = {name: same(one[name], other[name]) for name in TENSORS}
    results["metrics.jsonl"] = lines == (undisturbed.run_dir / "metrics.jsonl").read_text()
    results["no step missing or doubled"] = [json.loads(line)["step"] for line in lines.splitlines()] == steps
    results["pictures"] = pictures[0] == pictures[1]
    results["TensorBoard's steps"] = sorted({event.step for event in curve}) == steps
    for name, equal in results.items():
        check(f"{name}: as in an undisturbed run", equal)
    return results


def read_step(checkpoint: Path) -> int:
    """The step of a checkpoint, which must be whole."""
    import torch

    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def same(one: object, other: object) -> bool:
    """Bit for bit, in nested dicts and lists."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def prepare(room: Path) -> Path:
    """A small cache of drawn pictures."""
    (room / "pictures").mkdir()
    for number in range(PICTURES):
        drawn(number, SIDE).save(room / "pictures" / f"{number:03}.png")
        (room / "pictures" / f"{number:03}.txt").write_text(f"waves of kind {number % 7}")
    words = ["autoencoder=identity", f"image_size={SIDE}", "text_encoder.width=32", "text_encoder.layers=1"]
    words += ["text_encoder.heads=4", f"source.path={room / 'pictures'}", f"cache={room / 'cache'}"]
    subprocess.run([sys.executable, "-m", "ldm_train", "encode", *words], check=True, stdout=subprocess.DEVNULL)
    return room / "cache"


def run(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    cache = prepare(room)
    undisturbed, killed = (
        Run(cache, room / name, arguments.processes, arguments.steps, background)
        for name, background in (("whole", False), ("killed", arguments.background))
    )
    check("the undisturbed run ends", undisturbed.start().wait() == 0)
    found = campaign(killed, arguments.kills, arguments.seed)
    results = {"steps": arguments.steps, "processes": arguments.processes, "accumulation": ACCUMULATION, **found}
    results["equal"] = compare(killed, undisturbed) if not failures else {}
    if failures:
        shutil.copyfile(killed.log, "chaos_train.log")
    return results | {"failures": failures}


@contextmanager
def dying(kind: str, step: int, rank: int, share: float) -> Iterator[None]:
    """In a process that is to die: the same training, with a SIGKILL in its way."""
    import torch

    from ldm_train.training.base_module import Training
    from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    save, start, keep = torch.save, Training.on_train_batch_start, Checkpoints._keep

    def batch(module: Training, batch: object, batch_idx: int) -> None:
        if kind == INSIDE[0] and module.global_step == step and batch_idx % ACCUMULATION == 1 + int(share * 3):
            die() if module.global_rank == rank else None
        start(module, batch, batch_idx)

    def write(checkpoint: dict[str, int], file: object) -> None:
        wanted = kind == INSIDE[1] and checkpoint["global_step"] >= step
        save(checkpoint, Dying(file, die, int(share * 500_000)) if wanted else file)  # type: ignore[arg-type]

    def after(callback: Checkpoints, now: int) -> None:
        if kind == INSIDE[2] and now >= step:
            die()
        keep(callback, now)

    torch.save, Training.on_train_batch_start, Checkpoints._keep = write, batch, after  # type: ignore[method-assign, assignment]
    yield


class Dying:
    """A file whose writer dies after so many bytes."""

    def __init__(self, file: object, die: Callable[[], None], after: int) -> None:
        self.file, self.die, self.left = file, die, after

    def write(self, content: bytes) -> int:
        self.left -= len(content)
        if self.left < 0:
            self.file.flush()  # type: ignore[attr-defined]
            self.die()
        return self.file.write(content)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def victim() -> None:
    """`ldm-train` with the command line's words, and with the death that the environment asks for."""
    from ldm_train.cli.main import main as ldm_train

    if DEATH not in os.environ:
        ldm_train()
    kind, step, rank, share = os.environ[DEATH].split("|")
    with dying(kind, int(step), int(rank), float(share)):
        ldm_train()


def main() -> None:
    if sys.argv[1:2] == ["train"]:
        return victim()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--background", action="store_true", help="the run that is killed writes checkpoints in a thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        write_results(arguments.out, run(arguments, Path(room)))
    print(f"{len(failures)} failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
