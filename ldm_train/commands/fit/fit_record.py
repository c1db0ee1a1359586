"""What a fit remembers in its folder: what was asked for, what was chosen, and which commands are done."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ldm_train.commands.fit.choosing import Values
from ldm_train.settings.schema.using import FitSettings
from ldm_train.util.files import atomic_write
from ldm_train.util.ownership import FolderKind, carries_mark, check_folder
from ldm_train.util.safe_json import Json, parse_json, read_object

FIT = FolderKind("a folder of `ldm-train fit`", "fit.json", frozenset({"request", "stages"}))
FIRST_STEPS = "first steps"  # of the training: a stage that belongs to the one after it
FREE = ("out", "debug", "threads", "prompts")  # settings that may be others when a fit goes on


@dataclass
class Stage:
    """A command of a fit.

    Args:
        words: of its command line, after `ldm-train`.
        seconds: that it took so far.
        ending: how it ended: "done", or what kept it from that.
    """

    words: list[str]
    seconds: float = 0.0
    ending: str = ""


@dataclass
class FitRecord:
    """The record of a fit.

    Args:
        request: the settings that it was started with.
        facts: of the pictures.
        values: what was chosen; empty before that.
        planned: seconds of each stage that were reckoned with.
        stages: by name, in their order.
    """

    request: dict[str, Json]
    facts: dict[str, Json] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    planned: dict[str, Json] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return what all stages took so far."""
        return sum(stage.seconds for stage in self.stages.values())

    def write(self, out: Path) -> None:
        atomic_write(out / FIT.mark, json.dumps(asdict(self), indent=2) + "\n")


def describe_request(settings: FitSettings) -> dict[str, Json]:
    """Return the settings that make a fit what it is."""
    plain = parse_json(json.dumps(settings.as_plain()))
    assert isinstance(plain, dict)
    return {name: value for name, value in plain.items() if name not in FREE}


def open_record(settings: FitSettings, out: Path) -> FitRecord:
    """Return the record of a folder, a new one if it has none.

    Raises:
        ValueError: the folder is something else, or a fit with other settings.
    """
    check_folder(out, FIT, setting="out", given=str(settings.out))
    request = describe_request(settings)
    if not carries_mark(out, FIT):
        return FitRecord(request)
    try:
        content = read_object(out / FIT.mark)
        stages = {name: Stage(**stage) for name, stage in content.pop("stages").items()}  # type: ignore
        record = FitRecord(**content, stages=stages)  # type: ignore[arg-type]
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{out / FIT.mark} cannot be read as the record of a fit ({error}); choose another out") from error
    changed = [name for name, value in request.items() if record.request.get(name) != value]
    if changed:
        now = ", ".join(f"{name}={request[name]} (was {record.request.get(name)})" for name in changed)
        raise ValueError(
            f"out={settings.out} holds a fit that was started with other settings: {now}. Give those again to go on with "
            "it, or choose another out"
        )
    return record


def list_commands(record: FitRecord) -> list[list[str]]:
    """Return the words of the commands that a fit amounts to, without what only shares out its time."""
    stages = [stage.words for name, stage in record.stages.items() if name != FIRST_STEPS]
    return [[word for word in words if not word.startswith(("max_time=", "resume="))] for words in stages]
