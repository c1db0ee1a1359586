"""Let every file operation of every command fail, be the last before a kill, or before a power cut; see that nothing is lost.

    python scripts/fault_campaign.py --out docs/results/file_faults.json
    python scripts/fault_campaign.py --commands report "export file" --kinds kill EIO --every 5      # a part of it

Needs Linux and a C compiler. Each command runs in a small world of files (scripts/faults/world.py) with one fault, then again
without. Exit code 1: after that the world is not what it is when nothing happens (bytes, and no file more), or a command
that failed did not name the file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.campaign import KINDS, Campaign, Outcome, distinct
from faults.shim import LOADED, build, environment
from faults.world import COMMANDS, World
from measuring import write_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--every", type=int, default=1, help="only each so manieth operation")
    parser.add_argument("--first", type=int, default=1, help="from this operation on")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp()).resolve()  # a TemporaryDirectory would be removed at the end of each child
    try:
        if LOADED not in os.environ:
            raise SystemExit(_start_again_with_shim(folder))
        outcomes = _run(arguments, folder)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(1 if any(outcome.problems for outcome in outcomes) else 0)


def _start_again_with_shim(folder: Path) -> int:
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, **environment(build(folder)), **quiet}).returncode


def _run(arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    from faults.zygote import import_everything

    start = time.monotonic()
    import_everything()
    world = World(folder)
    os.environ["TMPDIR"] = str(world.path / "tmp")
    world.prepare()
    print(f"prepared after {time.monotonic() - start:.0f} s", flush=True)
    outcomes: list[Outcome] = []
    counts: dict[str, object] = {}
    for name in arguments.commands:
        campaign = Campaign(world, name)
        if campaign.unstable:
            outcomes.append(Outcome(name, "none", 0, "none", "", "", campaign.unstable))
        for fault in campaign.faults(arguments.kinds, arguments.first, arguments.every):
            outcomes.append(campaign.try_fault(fault))
            if outcomes[-1].problems:
                print(outcomes[-1], flush=True)
        own = [outcome for outcome in outcomes if outcome.command == name]
        counts[name] = {
            "operations": len(campaign.operations),
            "distinct": len(distinct(campaign.operations)),
            "faults": len(own),
            "outcomes": dict(Counter(f"{outcome.kind}: {outcome.what}" for outcome in own)),
            "failures": sum(bool(outcome.problems) for outcome in own),
        }
        print(f"{time.monotonic() - start:.0f} s, {name}: {counts[name]}", flush=True)
    machine = {"system": os.uname().sysname, "release": os.uname().release, "machine": os.uname().machine}
    failed = [outcome.as_json() for outcome in outcomes if outcome.problems]
    total = {"operations": sum(c["operations"] for c in counts.values()), "faults": len(outcomes)}  # type: ignore[index, misc]
    results = {"machine": {**machine, "cores": os.cpu_count()}, "seconds": round(time.monotonic() - start), **total}
    write_results(arguments.out, {**results, "commands": counts, "failures": failed})
    print(f"{len(outcomes)} faults, {len(failed)} failures", flush=True)
    return outcomes


if __name__ == "__main__":
    main()
