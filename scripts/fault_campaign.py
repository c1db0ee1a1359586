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

from faults.shim import LOADED, build, environment
from measuring import write_results

MEMORY = Path("/dev/shm")  # a file system in memory: what is flushed is counted, and costs nothing
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
    parser.add_argument("--keep", action="store_true", help="keep what --out has of the commands that are left out")
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
    """Go through all that was asked for, and write the results after each command; True if something is wrong."""
    from faults.pairs import PAIRS
    from faults.world import COMMANDS, World
    from faults.zygote import import_everything

    start = time.monotonic()
    import_everything()
    World(folder, folder / "prepared").prepare()
    print(f"prepared after {time.monotonic() - start:.0f} s", flush=True)
    groups = {
        "commands": list(COMMANDS) if arguments.commands is None else arguments.commands,
        "pairs": list(PAIRS) if arguments.pairs is None else arguments.pairs,
    }
    earlier = json.loads(arguments.out.read_text()) if arguments.keep else {}
    rows: dict[str, dict[str, Row]] = {group: earlier.get(group, {}) for group in groups}
    asked = {name for names in groups.values() for name in names}
    failures = [row for row in earlier.get("failures", []) if row["command"] not in asked]
    left = sum(map(len, groups.values()))
    for group, names in groups.items():
        for name in names:
            began = time.monotonic()
            until = began + (start + 60 * arguments.minutes - began) / left
            row = _sum(_share(arguments, folder, group, name, until))
            failures += row.pop("problems")
            rows[group][name] = row | {"seconds": round(time.monotonic() - began)}
            _write(arguments, rows, failures, round(time.monotonic() - start))
            left -= 1
    return bool(failures)


def _write(arguments: argparse.Namespace, rows: dict[str, dict[str, Row]], failures: Sequence[Row], seconds: int) -> None:
    faults = sum(row["faults"] for group in rows.values() for row in group.values())
    figures = {
        "every": arguments.every,
        "minutes": arguments.minutes if math.isfinite(arguments.minutes) else None,
        "jobs": arguments.jobs,
        "seconds": seconds,
        "faults": faults,
        "failed": len(failures),
    }
    write_results(arguments.out, {**_machine(), **figures, **rows, "failures": failures})
    print(f"{faults} faults, {len(failures)} failures", flush=True)


def _share(arguments: argparse.Namespace, folder: Path, group: str, name: str, until: float) -> list[Row]:
    """Go through one command's or pair's faults in several processes, and return a row of each."""
    children = [_fork(arguments, folder, job, group, name, until) for job in range(arguments.jobs)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"{name}: the campaign's processes ended with {codes}")
    return [json.loads((folder / f"part{job}").read_text()) for job in range(arguments.jobs)]


def _fork(arguments: argparse.Namespace, folder: Path, job: int, group: str, name: str, until: float) -> int:
    """Start a process that does its share of the faults."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            (folder / f"part{job}").write_text(json.dumps(_part(arguments, folder, job, group, name, until)))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def _part(arguments: argparse.Namespace, folder: Path, job: int, group: str, name: str, until: float) -> Row:
    from faults.campaign import KINDS, Campaign, Outcome
    from faults.pairs import Meeting
    from faults.world import World

    world = World(folder / f"job{job}", folder / "prepared")
    world.room.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(world.path / "tmp")
    try:
        campaign = Campaign(world, name) if group == "commands" else Meeting(world, name)
    except RuntimeError as error:  # a failure as any, which must not end the others
        problem = {"command": name, "kind": "none", "problems": [str(error)]}
        return {"operations": 0, "possible_faults": 0, "faults": 1, "outcomes": {}, "failures": 1, "problems": [problem]}
    faults = campaign.faults(arguments.kinds or KINDS) if isinstance(campaign, Campaign) else campaign.faults()
    chosen = list(faults[arguments.first - 1 :: arguments.every])
    if math.isfinite(until):
        random.Random(0).shuffle(chosen)
    outcomes: list[Outcome] = []
    for fault in chosen[job :: arguments.jobs]:
        if time.monotonic() > until:
            break
        outcomes.append(campaign.try_fault(fault))
        if outcomes[-1].problems:
            print(outcomes[-1], flush=True)
    problems = [outcome.as_json() for outcome in outcomes if outcome.problems]
    counts = dict(Counter(f"{outcome.kind}: {outcome.what}" for outcome in outcomes))
    row: Row = {"operations": len(campaign.operations), "possible_faults": len(faults), "faults": len(outcomes)}
    row |= {"outcomes": counts, "failures": len(problems)}
    print(f"{name}: {row}", flush=True)
    return row | {"problems": problems}


def _sum(rows: Sequence[Row]) -> Row:
    """Return the rows of all processes as one."""
    outcomes = Counter[str]()
    for row in rows:
        outcomes.update(row["outcomes"])
    totals = {name: sum(row[name] for row in rows) for name in ("faults", "failures")}
    problems = [problem for row in rows for problem in row["problems"]]
    return {**rows[0], **totals, "outcomes": dict(sorted(outcomes.items())), "problems": problems}


def _machine() -> Row:
    machine = os.uname()
    return {"machine": {"system": machine.sysname, "kind": machine.machine, "cores": os.cpu_count()}}


if __name__ == "__main__":
    main()
