"""Let every file operation of every command fail, be the last before a kill or a power cut, or wait for another command.

    python scripts/fault_campaign.py --out docs/results/file_faults.json
    python scripts/fault_campaign.py --commands report "export file" --kinds kill EIO --pairs --every 5      # a part of it

Needs Linux and a C compiler. Each command runs in a small world of files (scripts/faults/world.py) with one fault, then
again without: that must end with the bytes of an undisturbed command and no file more (scripts/faults/compare.py says how
files that the clock writes into are compared), and a command that failed must name the file. Then pairs of commands that
write the same place, or read what the other one writes (scripts/faults/pairs.py). Exit code 1: something is not so.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults.shim import LOADED, Fault, build, environment
from measuring import write_results

MEMORY = Path("/dev/shm")  # a file system in memory: what is flushed is counted, and costs nothing
GROUPS = ("commands", "pairs")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="*", metavar="COMMAND", help="none: pairs only")
    parser.add_argument("--kinds", nargs="+", choices=["kill", "power cut", "ENOSPC", "EIO"], metavar="KIND")
    parser.add_argument("--pairs", nargs="*", metavar="PAIR", help="none: commands only")
    parser.add_argument("--every", type=int, default=1, help="only each so manieth fault")
    parser.add_argument("--first", type=int, default=1, help="from this one on")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then drawn by chance, as many as fit")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the faults")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))  # which a child's end must not remove
    try:
        failed = _start_with_shim(folder) if LOADED not in os.environ else _run(arguments, folder)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(1 if failed else 0)


def _start_with_shim(folder: Path) -> bool:
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, **environment(build(folder)), **quiet}).returncode != 0


def _run(arguments: argparse.Namespace, folder: Path) -> bool:
    """Go through all that was asked for, in several processes; True if something is not as it must be."""
    from faults.world import World
    from faults.zygote import import_everything

    start = time.monotonic()
    import_everything()
    World(folder, folder / "prepared").prepare()
    print(f"prepared after {time.monotonic() - start:.0f} s", flush=True)
    jobs = [_fork(arguments, folder, job) for job in range(arguments.jobs)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) for job in jobs]
    if any(codes):
        raise SystemExit(f"a part of the campaign ended with {codes}")
    parts = [json.loads((folder / f"part{job}").read_text()) for job in range(arguments.jobs)]
    groups = {group: {name: _sum([part[group][name] for part in parts]) for name in parts[0][group]} for group in GROUPS}
    failures = [failure for part in parts for failure in part["failures"]]
    total = sum(row["faults"] for group in groups.values() for row in group.values())
    figures = {
        "every": arguments.every,
        "minutes": arguments.minutes if math.isfinite(arguments.minutes) else None,
        "jobs": arguments.jobs,
        "seconds": round(time.monotonic() - start),
    }
    figures |= {"faults": total, "failed": len(failures)}
    write_results(arguments.out, {**_machine(), **figures, **groups, "failures": failures})
    print(f"{total} faults, {len(failures)} failures", flush=True)
    return bool(failures)


def _fork(arguments: argparse.Namespace, folder: Path, job: int) -> int:
    """Start a process that does its share of the faults."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            (folder / f"part{job}").write_text(json.dumps(_part(arguments, folder, job)))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def _part(arguments: argparse.Namespace, folder: Path, job: int) -> Row:
    from faults.campaign import KINDS, Campaign, Outcome
    from faults.pairs import PAIRS, Meeting
    from faults.world import COMMANDS, World

    world = World(folder / f"job{job}", folder / "prepared")
    world.room.mkdir()
    os.environ["TMPDIR"] = str(world.path / "tmp")
    deadline = time.monotonic() + 60 * arguments.minutes
    part: dict[str, Row] = {group: {} for group in GROUPS}
    failures: list[Row] = []

    def go_through(group: str, name: str, campaign: Campaign | Meeting, faults: Sequence[Fault]) -> None:
        outcomes: list[Outcome] = []
        now, chosen = time.monotonic(), list(faults[arguments.first - 1 :: arguments.every])
        until = now + (deadline - now) / max(1, left.pop(0))
        if math.isfinite(deadline):
            random.Random(0).shuffle(chosen)
        for fault in chosen[job :: arguments.jobs]:
            if time.monotonic() > until:
                break
            outcomes.append(campaign.try_fault(fault))
            if outcomes[-1].problems:
                print(outcomes[-1], flush=True)
        failed = [outcome.as_json() for outcome in outcomes if outcome.problems]
        counts = dict(Counter(f"{outcome.kind}: {outcome.what}" for outcome in outcomes))
        row: Row = {"operations": len(campaign.operations), "possible_faults": len(faults), "faults": len(outcomes)}
        part[group][name] = row | {"outcomes": counts, "failures": len(failed)}
        failures.extend(failed)
        print(f"{name}: {part[group][name]}", flush=True)

    commands, pairs = (
        list(known) if asked is None else asked
        for known, asked in ((COMMANDS, arguments.commands), (PAIRS, arguments.pairs))
    )
    left = list(range(len(commands) + len(pairs), 0, -1))  # of those to come, which share the time
    for name in commands:
        campaign = Campaign(world, name)
        go_through("commands", name, campaign, campaign.faults(arguments.kinds or KINDS))
    for name in pairs:
        meeting = Meeting(world, name)
        go_through("pairs", name, meeting, meeting.faults())
    return {**part, "failures": failures}


def _sum(rows: Sequence[dict[str, Any]]) -> Row:
    """The rows of all processes as one."""
    outcomes = Counter[str]()
    for row in rows:
        outcomes.update(row["outcomes"])
    totals = {name: sum(row[name] for row in rows) for name in ("faults", "failures")}
    return {**rows[0], **totals, "outcomes": dict(sorted(outcomes.items()))}


def _machine() -> Row:
    machine = os.uname()
    return {"machine": {"system": machine.sysname, "kind": machine.machine, "cores": os.cpu_count()}}


if __name__ == "__main__":
    main()
