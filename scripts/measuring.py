"""Seconds of two things by turns, how busy the machine was, a process's memory, pictures to measure with, and checks."""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Step = Callable[[], None]


failures: list[str] = []


def check(what: str, good: bool) -> bool:
    """Tell whether something is as it must be, and keep what is not in `failures`."""
    print(f"{'ok' if good else 'FAILED':8}{what}", flush=True)
    if not good:
        failures.append(what)
    return good


def others_share(before: list[float], after: list[float]) -> float:
    """The share of the machine's time, between two readings, that other processes took."""
    total, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, (busy - own) / total)


def machine_times() -> list[float]:
    """Seconds of all cores so far: in all, busy, and of this process and those that it waited for."""
    values = [int(word) / os.sysconf("SC_CLK_TCK") for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    own = os.times()
    return [sum(values), sum(values) - values[3] - values[4], sum(own[:4])]


def seconds(step: Step, repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    for _ in range(repeats):
        step()
    return (clock() - start) / repeats


def compare(
    ours: Step, theirs: Step, *, rounds: int, repeats: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Medians of both, seconds, and of theirs / ours with its quartiles; rounds alternate in which comes first.

    Args:
        clock: of `time`; `process_time` leaves out what other processes took, and counts each thread.
    """
    ours()
    theirs()
    pairs, before = [], machine_times()
    for number in range(rounds):
        if number % 2:
            second = seconds(theirs, repeats, clock)
            pairs.append((seconds(ours, repeats, clock), second))
        else:
            first = seconds(ours, repeats, clock)
            pairs.append((first, seconds(theirs, repeats, clock)))
    low, ratio, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    return {
        "ours_s": statistics.median(a for a, _ in pairs),
        "theirs_s": statistics.median(b for _, b in pairs),
        "ratio": ratio,
        "ratio_quartile_1": low,
        "ratio_quartile_3": high,
        "others_share": others_share(before, machine_times()),
    }


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {name: median, f"{name}_quartile_1": low, f"{name}_quartile_3": high}


def status_bytes(name: str) -> int:
    """A line of this process's memory in /proc, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def cpu_seconds() -> float:
    """Of this process and of those it waited for, in all threads."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def drawn(number: int, side: int) -> Image.Image:
    """A picture of its own for each number: smooth waves under a camera's noise."""
    random = np.random.default_rng(number)
    frequency, phase = random.uniform(-3, 3, (3, 2, 1, 1)), random.uniform(0, 1, (3, 1, 1))
    y, x = np.mgrid[:side, :side] / side
    waves = np.sin(2 * np.pi * (frequency[:, 0] * y + frequency[:, 1] * x + phase)).transpose(1, 2, 0)
    values = 128 + 90 * waves + random.normal(0, 4, waves.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_results(path: Path | None, results: Mapping[str, object]) -> None:
    """With the command that made them."""
    if path is not None:
        command = f"python {Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}"
        path.write_text(json.dumps({"command": command.strip(), **results}, indent=2) + "\n", encoding="utf-8")
