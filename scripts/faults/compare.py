"""Whether two worlds hold the same: bytes, and of what the clock writes into, all that is not of the clock.

Compared otherwise than by bytes: checkpoints (tensors and values), `run.json` and `training.json` (all but the starts),
`timing.jsonl` (its steps), TensorBoard's files (each step's values of all tags but the clock's and the settings', whatever
files they lie in).
"""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

Digests = dict[str, str]
KNOWN: dict[tuple[str, str], str] = {}  # by the way of reading and the bytes' digest
STARTS = ("starts", "commands")  # of each time that the command was run
EVENTS = "events.out.tfevents"
NOT_COMPARED = ("time/", "config")  # tags of TensorBoard: the clock's, and the settings, which every start logs


def digest(root: Path) -> Digests:
    """A name and a digest of every file, folder and link below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            events = b"".join(file.read_bytes() for file in _event_files(path))
            found[f"{name}/"] = _once(_events, path, _short(events)) if events else ""
        elif not path.name.startswith(EVENTS):
            found[name] = _digest(path)
    return found


def differences(expected: Digests, found: Digests) -> list[str]:
    """What is missing, left behind or different, a line each."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"left behind: {name}" for name in found if name not in expected]
    return lines + [f"different: {name}" for name in expected if name in found and found[name] != expected[name]]


def _digest(path: Path) -> str:
    short, make = _short(path.read_bytes()), READERS.get(path.name) or READERS.get(path.suffix)
    return short if make is None else _once(make, path, short)


def _once(make: Callable[[Path], str], path: Path, short: str) -> str:
    """Read a file whose bytes have this digest, unless the same bytes were read so before."""
    key = make.__name__, short
    if key not in KNOWN:
        try:
            KNOWN[key] = make(path)
        except Exception as error:
            KNOWN[key] = f"unreadable: {type(error).__name__}: {error}"[:200]
    return KNOWN[key]


def _short(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _checkpoint(path: Path) -> str:
    import torch

    known = sha256()
    for name, value in _flat(torch.load(path, map_location="cpu", weights_only=True)):
        known.update(name.encode())
        known.update(value.contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return known.hexdigest()[:16]


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key in value:
            yield from _flat(value[key], f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _flat(item, f"{name}.{number}")
    else:
        yield name, value


def _record(path: Path) -> str:
    return json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in STARTS})


def _steps(path: Path) -> str:
    return str([json.loads(line)["step"] for line in path.read_text().splitlines()])


READERS: dict[str, Callable[[Path], str]] = {
    ".ckpt": _checkpoint,
    "run.json": _record,
    "training.json": _record,
    "timing.jsonl": _steps,
}


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{EVENTS}*"), key=lambda path: path.stat().st_mtime_ns)


def _events(folder: Path) -> str:
    """Each tag's values by step in all event files of a folder; the later written value counts."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    values: dict[tuple[str, int], bytes] = {}
    for path in _event_files(folder):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if not value.tag.startswith(NOT_COMPARED):
                    values[value.tag, event.step] = value.SerializeToString(deterministic=True)
    return f"{len(values)} values, {_short(repr(sorted(values.items())).encode())}"
