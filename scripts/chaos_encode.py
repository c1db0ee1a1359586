"""Kill, starve and damage encodings, and see that nothing is lost: the finished cache has the same bytes every time.

    python scripts/chaos_encode.py                              # 20 kills over 2,000 pictures
    python scripts/chaos_encode.py --kills 2 --pictures 120     # the same, short
    python scripts/chaos_encode.py --words 'conditions=[{inpaint:{masks:2}}]'

Two processes encode small pictures, some of which are damaged or copies, over an older cache of a tenth of them. Each kill
ends both at once, while they look at the source, encode, merge or rename; then they start again. Exit code 1: something
was lost, or not reported by name.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from measuring import check, drawn, failures, write_results

from ldm_train.util.files import hidden_path
from ldm_train.util.replacing import WORKING

SIDE, BATCH = 64, 4
FILES = 7  # of a cache of one bucket, each kind in one file of rows
Digests = dict[str, str]


class Ended(NamedTuple):
    """How an encoding ended: what it printed, and how many pictures it had to encode."""

    code: int
    said: str
    seconds: float
    encoded: int


@dataclass(frozen=True)
class Encoding:
    """`ldm-train encode` of a folder of pictures into a cache, with further words of the command."""

    source: Path
    cache: Path
    processes: int = 2
    words: tuple[str, ...] = ()

    @property
    def working(self) -> Path:
        """Where the next state of the cache is made."""
        return hidden_path(self.cache, ".ldm-train-working")

    def start(self) -> subprocess.Popen[bytes]:
        several = ["trainer.strategy=ddp"] if self.processes > 1 else []
        words = [f"source.path={self.source}", f"cache={self.cache}", f"image_size={SIDE}", f"batch_size={BATCH}"]
        words += [f"trainer.devices={self.processes}", *several, "trainer.accelerator=cpu", "scale_check=false"]
        command = [sys.executable, "-m", "ldm_train", "encode", *words, *self.words]
        with self.source.with_name("log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> Ended:
        """Run it to its end."""
        start, process, batches = time.perf_counter(), self.start(), b"[]"
        while process.poll() is None:
            with suppress(FileNotFoundError):
                batches = (self.working / "batches.json").read_bytes() or batches
            time.sleep(0.01)
        seconds, said = time.perf_counter() - start, self.source.with_name("log").read_text(errors="replace")
        encoded = sum(len(batch["pictures"]) for batch in json.loads(batches))
        return Ended(process.returncode, said, seconds, encoded)

    def kill(self, when: Callable[[], bool]) -> bool:
        """Run it until `when`, then kill all its processes; False: it ended before."""
        process = self.start()
        while process.poll() is None:
            if when():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.001)
        return False

    def listed(self, folder: str) -> list[str]:
        """The finished files of a folder of the workplace."""
        try:
            return [name for name in os.listdir(self.working / folder) if not name.startswith(".")]
        except FileNotFoundError:
            return []


def digests(folder: Path) -> Digests:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))}


def draw(folder: Path, pictures: int) -> None:
    """Captioned pictures, of which some are cut short, empty or copies."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(pictures):
        path = folder / f"{number:05}.{'png' if number % 2 else 'jpg'}"
        if not path.exists():
            drawn(number - 2 if number % 50 == 23 else number, SIDE).save(path)
            content = path.read_bytes()
            path.write_bytes(b"" if number % 200 == 13 else content[: len(content) // 2] if number % 100 == 7 else content)
        texts = [f"wave number {number}", f"a wave of kind {number % 17}", f"waves {number % 5}"]
        lines.append(json.dumps({"file_name": path.name, "text": texts[: 1 + number % 3]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def stages(kills: int, draws: random.Random, parts: int) -> list[tuple[str, float]]:
    """When to kill, in the order in which an encoding comes there; at least one kill each while it encodes and merges."""
    some, merging = kills // 7, max(1, kills // 7)
    found = [("survey", draws.uniform(0, 3)) for _ in range(some)]
    found += [("encoding", n) for n in sorted(draws.sample(range(1, parts), kills - 2 * some - merging))]
    return found + [("merge", draws.randint(1, FILES - 2)) for _ in range(merging)] + [("rename", FILES)] * some


def moment(encoding: Encoding, stage: str, number: float) -> Callable[[], bool]:
    """Whether a started encoding has come to a stage: seconds of looking, parts, or files of the new cache."""
    left, began = len(encoding.listed("parts")), time.perf_counter()
    waits = {
        "survey": lambda: time.perf_counter() - began > 0.5 + number,
        "encoding": lambda: len(encoding.listed("parts")) >= max(left + 1, number),
    }
    return waits.get(stage, lambda: time.perf_counter() - began > 1 and len(encoding.listed("new")) >= number)


def campaign(encoding: Encoding, kills: int, whole: Digests, *, seed: int, parts: int) -> dict[str, object]:
    """Kill again and again, then let it end; the older cache or the new one must be whole all the time."""
    old, made, taken, room = digests(encoding.cache), Counter[str](), [], encoding.cache.parent
    for stage, number in stages(kills, random.Random(seed), parts):
        before = room.with_name("before")
        shutil.copytree(room, before)
        killed = False
        while not killed:
            start = time.perf_counter()
            killed = encoding.kill(moment(encoding, stage, number))
            taken.append(time.perf_counter() - start)
            there = digests(encoding.cache if encoding.cache.exists() else encoding.working / "previous")
            left = f"{len(encoding.listed('parts'))} parts, {len(encoding.listed('new'))} files of the new cache"
            reported = (
                f"killed at {stage} ({number:.3g}): {left}" if killed else f"ended before {stage} ({number:.3g}), again"
            )
            check(f"{reported}; a whole cache is there", there in (old, whole))
            if there == whole:  # there would be nothing more to kill
                made["after renaming"] += killed
                shutil.rmtree(room)
                shutil.copytree(before, room)
        shutil.rmtree(before)
        made[stage] += 1
    ended = encoding.finish()
    check(f"after {kills} kills: the bytes of an undisturbed run", digests(encoding.cache) == whole)
    check("nothing is left next to the cache", [path.name for path in room.iterdir()] == [encoding.cache.name])
    return {"kills": dict(made), "between_kills_s": statistics.median(taken), "last_run_s": ended.seconds}


def changes(encoding: Encoding, fresh: Encoding, pictures: int) -> dict[str, object]:
    """Ten pictures changed, then none."""
    sound = [number for number in range(pictures) if number % 50 != 21]
    for number in sound[1 :: len(sound) // 10][:10]:
        drawn(pictures + number, SIDE).save(encoding.source / f"{number:05}.{'png' if number % 2 else 'jpg'}")
    ended = encoding.finish()
    check(f"ten pictures changed: {ended.encoded} encoded", ended.encoded == 10)
    anew = fresh.finish()
    check("ten pictures changed: the bytes of a fresh cache", digests(encoding.cache) == digests(fresh.cache))
    again = encoding.finish()
    check(f"nothing changed: {again.encoded} encoded, {again.seconds:.1f} s", again.encoded == 0 and again.seconds < 5)
    return {"encoded": ended.encoded, "s": ended.seconds, "fresh_s": anew.seconds, "unchanged_s": again.seconds}


def damages(encoding: Encoding, whole: Digests) -> dict[str, object]:
    """A lost file of rows and a second writer meanwhile, a flipped byte, a death between the two renames."""
    [latents] = encoding.cache.glob("latents-*")
    (encoding.cache / "captions-00000.safetensors").unlink()
    first = encoding.start()
    while first.poll() is None and not (encoding.working / "batches.json").exists():
        time.sleep(0.01)
    second = encoding.finish()
    refused = check("a second writer is refused by name", second.code == 1 and "is being written by another" in second.said)
    first.wait()
    lost = check("a lost shard and two writers: whole again", digests(encoding.cache) == whole)
    content = bytearray(latents.read_bytes())
    content[-1000] ^= 1
    latents.write_bytes(content)
    ended = encoding.finish()
    reported = check(
        "a flipped byte is reported by name", f"{latents.name} changed since encoding" in " ".join(ended.said.split())
    )
    flipped = check("a flipped byte: whole again", digests(encoding.cache) == whole)
    encoding.working.mkdir()
    (encoding.working / WORKING.mark).write_text(json.dumps(dict.fromkeys(WORKING.keys, "")), encoding="utf-8")
    encoding.cache.rename(encoding.working / "previous")
    encoding.finish()
    between = check("as if killed between the two renames: whole", digests(encoding.cache) == whole)
    return {"second_writer": refused, "lost_shard": lost, "flipped_byte": reported and flipped, "between_renames": between}


def full_disk(encoding: Encoding, whole: Digests, *, merging: bool) -> bool:
    """Encode onto a small disk that is nearly full, then make room; it is mounted around the cache, by root."""
    disk, name = encoding.cache.parent, "merging" if merging else "encoding"
    filler = disk / "filler"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    try:
        if merging:
            encoding.kill(moment(encoding, "merge", 1))
            shutil.rmtree(encoding.working / "new")  # as the next start does, which would make room
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - (80 << 10)))
        ended = encoding.finish()
        reported = check(f"disk full while {name}: reported by name", ended.code == 1 and "are free there" in ended.said)
        filler.unlink()
        kept = len(encoding.listed("parts"))
        encoding.finish()
        return reported and check(
            f"with room again, from {kept} parts that were kept: whole", digests(encoding.cache) == whole
        )
    finally:
        subprocess.run(["umount", disk], check=True)


def faults(source: Path, room: Path, words: tuple[str, ...]) -> dict[str, object]:
    """What can happen to a small cache; a full disk only where one can be mounted."""
    Encoding(source, room / "cache", 1, words).finish()
    whole = digests(room / "cache")
    found = damages(Encoding(source, room / "cache", words=words), whole)
    for name, merging in (("full_disk_encoding", False), ("full_disk_merging", True)):
        (room / name).mkdir()
        try:
            found[name] = full_disk(Encoding(source, room / name / "cache", words=words), whole, merging=merging)
        except subprocess.CalledProcessError:
            print("no small disk can be mounted here: what happens on a full one was not tried")
    return found


def run(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    few, source, words = max(40, arguments.pictures // 10), room / "pictures", tuple(arguments.words)
    draw(source, few)
    killed = Encoding(source, room / "killed" / "cache", words=words)
    Encoding(source, killed.cache, 1, words).finish()
    draw(source, arguments.pictures)
    whole = []
    for processes in (1, 2):
        encoding = Encoding(source, room / f"undisturbed{processes}", processes, words)
        ended = encoding.finish()
        print(f"{processes} processes, undisturbed: {ended.seconds:.0f} s, {ended.encoded} pictures encoded", flush=True)
        whole.append(digests(encoding.cache))
    check("one process and two: the same bytes", whole[0] == whole[1] and "manifest.json" in whole[0])
    parts = (ended.encoded - few) // BATCH
    results: dict[str, object] = {"pictures": arguments.pictures, "distinct_pictures": ended.encoded, "processes": 2}
    results["campaign"] = campaign(killed, arguments.kills, whole[1], seed=arguments.seed, parts=parts)
    results["ten_changed"] = changes(killed, Encoding(source, room / "fresh", 1, words), arguments.pictures)
    draw(room / "few" / "pictures", few)
    results["faults"] = faults(room / "few" / "pictures", room / "few" / "caches", words)
    return results | {"failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=[], help="further words of encode, such as conditions")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        write_results(arguments.out, run(arguments, Path(room)))
    print(f"{len(failures)} failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
