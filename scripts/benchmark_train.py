"""What training costs in addition to the step: in the Trainer, at the start, for two processes, for pictures and metrics.

    python scripts/benchmark_train.py overhead cache=caches/openmoji # the Trainer compared with a bare loop of the same step
    python scripts/benchmark_train.py start cache=caches/openmoji --run outputs/quickstart  # to a step, a picture, an answer
    python scripts/benchmark_train.py ranks cache=caches/openmoji      # two ranks compared with two that exchange nothing
    python scripts/benchmark_train.py watching cache=caches/openmoji --rounds 1   # pictures, validation and metrics

Further words change the run, which is the quick start's (its scripts/quickstart.sh makes the cache). Rounds go by turns; the
figures are medians over rounds, with quartiles. On a machine with other work, `chrt -r 5` before the command gives
the measured processes their full share, and --rest gives the machine back between rounds.

overhead: each round is a process, in which single steps alternate: one of the real run, from one batch's start to the next
one's, with its loggers and callbacks, and one of a bare loop on a copy: the batch, the loss, its gradients, their clipping,
the optimizer, a moving average. In every other round the bare loop has the original and the run the copy. What the Trainer
does before and after the steps, checkpoints, validation and pictures are not among them. Each finds the processor's caches
full of the other's; and freed memory is kept, or either would pay for pages that the other gave back.
start: seconds on the wall (`_s`) and of all processors (`_cpu_s`, which other work on the machine changes less) from a
command to what was asked for: the first step, one picture of the run that --run names, or the end of its answer.
ranks: one run of two processes of one thread each, in which blocks of --steps steps alternate: `two` trains as usual,
`apart` exchanges nothing, neither gradients nor flags, which is what two ranks could reach at the most, and `all_rows`
exchanges the token embedding's whole gradient. Blocks begin together; times are the mean of both processes', of a step.
watching: whole runs as they are by default, and which shares of their time went where, by their own clocks.
"""

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from measuring import Step, machine_times, others_share, spread, write_results
from pytorch_lightning import Callback
from torch.nn.parallel import DistributedDataParallel

from ldm_train.cli.main import main as ldm_train
from ldm_train.commands.train import command as train
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training import base_module
from ldm_train.training.callbacks.stop import Stop
from ldm_train.training.module import NoisePredictorTraining

EXPERIMENT = "experiment=openmoji"
NEVER = [*(f"{what}.every=1000000" for what in ("checkpoint", "validation", "pictures")), "metrics.every=null"]
QUICK_END = ["validation.repeats=1", "pictures.steps=1", "pictures.count=1"]
WARM = 10  # steps before the measured ones
LOGGED = 10  # steps between two lines of the log, trainer.log_every_n_steps
TWO = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**31), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # bytes, glibc's; the second is its most
WATCHING = ("validation", "pictures", "metrics")
RANKS = ("two", "apart", "all_rows")


def bare_step(module: NoisePredictorTraining, data: CachedLatents, clip: float) -> Step:
    """What a loop without a Trainer does for a step, each time for the next batch."""
    optimizer = module.make_optimizer([dict(group) for group in module.parameter_groups(module.named_parameters())])
    parameters = list(module.trained_parameters().values())
    weights = [p.detach() for p in parameters]
    averages = [weight.clone() for weight in weights]
    starts = iter(range(0, sys.maxsize, data.batch_size))

    def step() -> None:
        start = next(starts)
        batch = data.fetch(torch.arange(start, start + data.batch_size))
        module.training_step(batch, 0)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(averages, weights, 0.001)

    return step


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of this process on all processors."""
    return time.perf_counter(), time.process_time()


class Alternating(Callback):
    """Takes a bare step between any two of the Trainer's, and the time of each, [steps, (wall, CPU)]."""

    def __init__(self, bare: Step, steps: int) -> None:
        self.bare = bare
        self.steps = steps
        self.marks: list[tuple[float, float]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.marks.append(clocks())
        self.bare()
        self.marks.append(clocks())
        trainer.should_stop = batch_idx == WARM + self.steps

    def overhead(self) -> dict[str, float]:
        """Seconds a step, and the Trainer's above the bare loop's as a share of these, on the wall and of the CPU."""
        marks = torch.tensor(self.marks, dtype=torch.float64)
        bare, trainer = (marks[1::2] - marks[::2])[WARM:-1], (marks[2::2] - marks[1:-1:2])[WARM:]
        wall, cpu = (trainer.sum(0) / bare.sum(0) - 1).tolist()
        times = {"trainer_s": trainer.median(0).values[0].item(), "bare_s": bare.median(0).values[0].item()}
        return times | {"overhead": wall, "overhead_cpu": cpu}


def child_overhead(arguments: argparse.Namespace) -> None:
    """One round, in this process."""
    original, watches = train.fit, []

    def fit(module: NoisePredictorTraining, data: CachedLatents, *, callbacks: Sequence[Callback], **rest: object) -> object:
        pair = [module, copy.deepcopy(module)]
        real, bare = reversed(pair) if arguments.swapped else pair
        watches.append(Alternating(bare_step(bare, data, config.trainer.gradient_clip_val or 0.0), arguments.steps))
        return original(real, data, callbacks=[*callbacks, *watches], **rest)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as room:
        words = [f"run_dir={room}/run", f"threads={arguments.threads[0]}", "trainer.accelerator=cpu", *NEVER]
        config = compose_as(TrainSettings, [*arguments.words, *words, f"trainer.log_every_n_steps={LOGGED}"])
        train.fit = fit  # type: ignore[assignment]
        train.run(config)
    print(json.dumps(watches[0].overhead()))


def run_overhead(arguments: argparse.Namespace) -> dict[str, object]:
    results: dict[str, object] = {}
    for threads in arguments.threads:
        found = []
        with watched() as share:
            for number in rounds(arguments):
                words = ["--threads", str(threads), "--steps", str(arguments.steps), *["--swapped"] * (number % 2)]
                said = output([sys.executable, __file__, "child-overhead", *words, *arguments.words], threads, KEPT)
                found.append(json.loads(said.splitlines()[-1]))
                print(f"{threads} threads: {found[-1]}", flush=True)
        results[f"{threads} threads"] = {
            "steps": arguments.steps,
            **{key: value for name in found[0] for key, value in spread(name, [one[name] for one in found]).items()},
            "others_share": share(),
        }
    return results


def run_start(arguments: argparse.Namespace) -> dict[str, float]:
    """Each command in turn, once before the rounds, so that the files are in memory."""
    commands: dict[str, Callable[[], float]] = {
        "first_step": lambda: seconds_to_first_step(arguments.words),
        "help": lambda: seconds_to_end(["--help"]),
        "train_help": lambda: seconds_to_end(["train", "--help"]),
    }
    if arguments.run is not None:
        commands["sample"] = lambda: seconds_to_picture(arguments.run)
    for command in commands.values():
        command()
    found: dict[str, list[float]] = {f"{name}_{kind}": [] for name in commands for kind in ("s", "cpu_s")}
    with watched() as share:
        for _ in rounds(arguments):
            for name, command in commands.items():
                before = processor_seconds()
                found[f"{name}_s"].append(command())
                found[f"{name}_cpu_s"].append(processor_seconds() - before)
            print(", ".join(f"{name} {values[-1]:.2f}" for name, values in found.items()), flush=True)
    figures = {key: value for name, values in found.items() for key, value in spread(name, values).items()}
    return figures | {"others_share": share()}


def seconds_to_end(words: list[str]) -> float:
    start = time.perf_counter()
    output([sys.executable, "-m", "ldm_train", *words])
    return time.perf_counter() - start


def seconds_to_picture(run: Path) -> float:
    with tempfile.TemporaryDirectory() as room:
        return seconds_to_end(["sample", f"run_dir={run}", "prompts=a red apple", f"out={room}/pictures"])


def processor_seconds() -> float:
    """Seconds that all processors spent on the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_to_first_step(words: list[str]) -> float:
    """Until the run tells its first step, which it then has taken."""
    with tempfile.TemporaryDirectory() as room, (Path(room) / "errors").open("w+") as errors:
        command = [sys.executable, "-m", "ldm_train", "train", *words, f"run_dir={room}/run", *NEVER]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as run:
            assert run.stdout is not None
            taken = next((time.perf_counter() - start for line in run.stdout if line.startswith("step 1/")), None)
            run.kill()
        errors.seek(0)
        assert taken is not None, errors.read()
    return taken


class Blocks(Callback):
    """Alternates blocks of steps that exchange as usual, all rows, or nothing; has the seconds of each, both ranks' mean."""

    def __init__(self, rounds: int, steps: int) -> None:
        self.kinds = [
            "two",
            *(kind for n in range(rounds) for kind in (RANKS if n % 2 == 0 else RANKS[::-1])),
        ]  # one to warm
        self.steps = steps
        self.seconds: list[tuple[str, list[float]]] = []
        self.started = torch.zeros(2, dtype=torch.float64)
        self.usual = (base_module.average_rows, base_module.all_ranks_finite, Stop._exchanged)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        number, step = divmod(batch_idx, self.steps)
        if step:
            return
        if number:
            taken = torch.tensor(clocks(), dtype=torch.float64) - self.started
            dist.all_reduce(taken)
            self.seconds.append((self.kinds[number - 1], (taken / dist.get_world_size() / self.steps).tolist()))
        trainer.should_stop = number == len(self.kinds)
        self._exchange(trainer, self.kinds[number] if number < len(self.kinds) else "two")
        dist.barrier()
        self.started = torch.tensor(clocks(), dtype=torch.float64)

    def _exchange(self, trainer: pl.Trainer, kind: str) -> None:
        wrapped = trainer.strategy.model
        assert isinstance(wrapped, DistributedDataParallel)
        wrapped.require_backward_grad_sync = kind != "apart"
        average_rows, finite, exchanged = self.usual
        if kind == "apart":
            average_rows, finite, exchanged = (lambda parameters: None), torch.Tensor.float, (lambda stop, wanted: wanted)  # type: ignore[assignment]
        elif kind == "all_rows":
            average_rows = average_all_rows
        base_module.average_rows, base_module.all_ranks_finite = average_rows, finite
        Stop._exchanged = exchanged  # type: ignore[method-assign]


def average_all_rows(parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad.div_(dist.get_world_size()))


def child_ranks(arguments: argparse.Namespace) -> None:
    """The run, of which each process is started with these words; the first one prints the seconds of its blocks."""
    original, blocks = train.fit, Blocks(arguments.rounds, arguments.steps)

    def fit(*positional: object, callbacks: Sequence[Callback], **rest: object) -> object:
        reason = original(*positional, callbacks=[*callbacks, blocks], **rest)  # type: ignore[arg-type]
        print(json.dumps(blocks.seconds))
        return reason

    train.fit = fit  # type: ignore[assignment]
    ldm_train(["train", *arguments.words])


def run_ranks(arguments: argparse.Namespace) -> dict[str, object]:
    steps = 1 + (1 + len(RANKS) * arguments.rounds) * arguments.steps
    with watched() as share, tempfile.TemporaryDirectory() as room:
        words = [*arguments.words, f"run_dir={room}/run", "threads=1", *TWO, *NEVER, *QUICK_END, f"max_steps={steps}"]
        counts = ["--rounds", str(arguments.rounds), "--steps", str(arguments.steps)]
        said = output([sys.executable, __file__, "child-ranks", *words, *counts], threads=1)
    blocks = json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("[[")))[1:]
    figures: dict[str, list[float]] = {}
    for clock, suffix in enumerate(("s", "cpu_s")):
        times = {kind: [seconds[clock] for name, seconds in blocks if name == kind] for kind in RANKS}
        figures |= {f"{kind}_{suffix}": values for kind, values in times.items()}
        for kind in ("two", "all_rows"):
            shares = [apart / one for apart, one in zip(times["apart"], times[kind], strict=True)]
            figures[f"share_of_apart{'' if kind == 'two' else '_all_rows'}{'_cpu' if clock else ''}"] = shares
    spreads = {key: value for name, values in figures.items() for key, value in spread(name, values).items()}
    return {"words": arguments.words, "steps": arguments.steps, **spreads, "others_share": share()}


def run_watching(arguments: argparse.Namespace) -> dict[str, object]:
    shares: dict[str, list[float]] = {f"share_{what}": [] for what in (*WATCHING, "watching")}
    with watched() as share:
        for _ in rounds(arguments):
            with tempfile.TemporaryDirectory() as room:
                output([sys.executable, "-m", "ldm_train", "train", *arguments.words, f"run_dir={room}/run"])
                last = (Path(room) / "run" / "timing.jsonl").read_text(encoding="utf-8").splitlines()[-1]
            reported = [json.loads(last).get(f"share_{what}", 0.0) for what in WATCHING]
            for name, value in zip(shares, [*reported, sum(reported)], strict=True):
                shares[name].append(value)
            print(last, flush=True)
    spreads = {key: value for name, values in shares.items() for key, value in spread(name, values).items()}
    return {"words": arguments.words, **spreads, "others_share": share()}


def output(command: list[str], threads: int | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints, which must succeed."""
    changed = {**os.environ, **(environment or {})} | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=changed)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def rounds(arguments: argparse.Namespace) -> Iterator[int]:
    for number in range(arguments.rounds):
        if number:
            time.sleep(arguments.rest)
        yield number


@contextmanager
def watched() -> Iterator[Callable[[], float]]:
    """Gives the share of the machine's time that other processes took within."""
    before: list[float] = machine_times()
    after: list[float] = []
    yield lambda: others_share(before, after)
    after.extend(machine_times())


MODES: dict[str, Callable[[argparse.Namespace], Mapping[str, object]]] = {
    "overhead": run_overhead,
    "start": run_start,
    "ranks": run_ranks,
    "watching": run_watching,
}
CHILDREN = {"child-overhead": child_overhead, "child-ranks": child_ranks}


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=[*MODES, *CHILDREN], metavar="|".join(MODES))
    parser.add_argument("words", nargs="*", help="of the run, such as cache=caches/openmoji")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="measured in each round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores], help="of overhead alone")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds between rounds")
    parser.add_argument("--run", type=Path, help="of start alone: a run directory of the quick start, to draw with")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--swapped", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.mode in CHILDREN:
        CHILDREN[arguments.mode](arguments)
        return
    if not any(word.startswith("experiment=") for word in arguments.words):
        arguments.words.append(EXPERIMENT)
    print(f"torch {torch.__version__}, {cores} cores, {arguments.rounds} rounds", flush=True)
    results = MODES[arguments.mode](arguments)
    print(json.dumps(results, indent=2))
    write_results(arguments.out, {"torch": torch.__version__, "cores": cores, "rounds": arguments.rounds, **results})


if __name__ == "__main__":
    main()
