"""Let every file operation of every command fail, be the last before a kill or a power cut, or wait while another command runs.

    python scripts/fault_campaign.py --out docs/results/file_faults.json
    python scripts/fault_campaign.py --commands report "export file" --kinds kill EIO --pairs --every 5      # a part of it

Needs Linux and a C compiler. Each command runs in a small world of files (scripts/faults/world.py) with one fault, then again
without: that must end with the bytes of an undisturbed command and no file more (scripts/faults/compare.py says how files
that the clock writes into are compared), and a command that failed must name the file. Then pairs of commands that write
the same place, or read what the other one writes (scripts/faults/pairs.py). Exit code 1: something is not so.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from faults.shim import LOADED, Fault, build, environment
from measuring import write_results

MEMORY = Path("/dev/shm")  # a file system in memory: what is flushed is counted, and costs nothing
Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="*", metavar="COMMAND", help="none: pairs only")
    parser.add_argument("--kinds", nargs="+", choices=["kill", "power cut", "ENOSPC", "EIO"], metavar="KIND")
    parser.add_argument("--pairs", nargs="*", metavar="PAIR", help="none: commands only")
    parser.add_argument("--every", type=int, default=1, help="only each so manieth operation")
    parser.add_argument("--first", type=int, default=1, help="from this operation on")
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
    """Go through all that was asked for; True if something is not as it must be."""
    from faults.campaign import KINDS, Campaign, Outcome
    from faults.pairs import PAIRS, Meeting
    from faults.world import COMMANDS, World
    from faults.zygote import import_everything

    start = time.monotonic()
    import_everything()
    world = World(folder)
    os.environ["TMPDIR"] = str(world.path / "tmp")
    world.prepare()
    print(f"prepared after {time.monotonic() - start:.0f} s", flush=True)

    def tried(campaign: Campaign | Meeting, faults: Iterable[Fault]) -> Iterator[Outcome]:
        for fault in faults:
            outcome = campaign.try_fault(fault)
            if outcome.problems:
                print(outcome, flush=True)
            yield outcome

    rows: dict[str, dict[str, Row]] = {"commands": {}, "pairs": {}}
    failures: list[Row] = []

    def keep(group: str, name: str, campaign: Campaign | Meeting, faults: Iterable[Fault]) -> None:
        outcomes = list(tried(campaign, faults))
        failed = [outcome.as_json() for outcome in outcomes if outcome.problems]
        counts = dict(Counter(f"{outcome.kind}: {outcome.what}" for outcome in outcomes))
        row: Row = {"operations": len(campaign.operations), "faults": len(outcomes), "outcomes": counts}
        rows[group][name] = row | {"failures": len(failed)}
        failures.extend(failed)
        print(f"{time.monotonic() - start:.0f} s, {name}: {rows[group][name]}", flush=True)

    for name in COMMANDS if arguments.commands is None else arguments.commands:
        campaign = Campaign(world, name)
        keep("commands", name, campaign, campaign.faults(arguments.kinds or KINDS, arguments.first, arguments.every))
    for name in PAIRS if arguments.pairs is None else arguments.pairs:
        meeting = Meeting(world, name)
        keep("pairs", name, meeting, meeting.faults(arguments.first, arguments.every))
    write_results(arguments.out, {**_machine(), "seconds": round(time.monotonic() - start), **rows, "failures": failures})
    total = sum(int(str(row["faults"])) for group in rows.values() for row in group.values())
    print(f"{total} faults, {len(failures)} failures", flush=True)
    return bool(failures)


def _machine() -> Row:
    machine = os.uname()
    return {"machine": {"system": machine.sysname, "kind": machine.machine, "cores": os.cpu_count()}}


if __name__ == "__main__":
    main()
