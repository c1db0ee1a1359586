"""Type prompts in a terminal, one a line: the run stays loaded, and each picture is drawn at once.

a red apple                        draw it
steps=30 guidance.scale=2          change settings
a red apple steps=10 --d 7         settings of this picture only
"x = y on a blackboard" seed=3     in quotes, a prompt that holds NAME=
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from rich.progress import Progress

from ldm_train.assembly.attention_picture import draw_attention
from ldm_train.assembly.picture_series import PictureSeries
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.prompt_options import OPTION, Prompt, read_line
from ldm_train.assembly.quality_warnings import warn_of_lossy_run
from ldm_train.assembly.studio import Studio
from ldm_train.assembly.studio_settings import FIXED
from ldm_train.commands.sample.line_history import keeping_history
from ldm_train.settings.composition import words
from ldm_train.settings.schema.options import Part, list_part_groups
from ldm_train.settings.schema.typed_values import unquote
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.shipped import ConfigError, key_of
from ldm_train.util.messages import note, warn
from ldm_train.util.text import format_value

SETTING = re.compile(r"(?:^|\s)[+~]?[A-Za-z_][\w.]*=")
QUOTED = re.compile(r'("(?:\\.|[^"\\])*")(.*)')
WHERE = "this line"
GUIDE = (
    "Type a prompt and press Enter: its picture goes to {out}. NAME=VALUE changes a setting, as in steps=30, also after a "
    "prompt for this picture only; ? lists them. Enter alone draws the last prompt again, from other noise. "
    "Ctrl-C cancels a picture, Ctrl-D ends."
)


@dataclass(frozen=True)
class TypedLine:
    """A line that was typed: a prompt, None if there is none, and settings as words of a command line."""

    prompt: Prompt | None
    words: list[str]


def read_typed_line(line: str) -> TypedLine:
    """Return what a line holds: a prompt, settings, or a prompt and its settings.

    Raises:
        ValueError: the prompt has an option that is not known, or has another value.
    """
    quoted = QUOTED.fullmatch(line)
    rest = quoted[2] if quoted else line
    places = [*(one.start() for one in SETTING.finditer(rest)), len(rest)]
    typed = [rest[start:end].strip() for start, end in pairwise(places)]
    before = rest[: places[0]].strip()
    if before or quoted:
        typed, options = split_options(typed)
        before = " ".join([before, *options]).strip()
    if quoted and (not before or OPTION.match(before)):
        return TypedLine(replace(read_line(f"_ {before}".strip(), WHERE), text=unquote(quoted[1])), typed)
    text = f"{quoted[1]} {before}" if quoted else before
    return TypedLine(read_line(text, WHERE) if text else None, typed)


def split_options(typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return settings without the options of the prompt that follow them, as --d 7 in steps=10 --d 7, and these options."""
    cut = [
        next((one.start() for one in OPTION.finditer(word) if word[: one.start()].count('"') % 2 == 0), None)
        for word in typed
    ]
    options = [word[end:].strip() for word, end in zip(typed, cut, strict=True) if end is not None]
    return [word[:end].strip() for word, end in zip(typed, cut, strict=True)], options


def merge_changes(changes: Mapping[str, str], typed: Sequence[str]) -> dict[str, str]:
    """Return changes with further words; a new option of a group takes the place of the settings of the old one."""
    merged = dict(changes)
    for word in typed:
        name = key_of(word)
        if name in list_part_groups(SampleSettings):
            merged = {key: one for key, one in merged.items() if not key.startswith(f"{name}.")}
        merged[name] = word
    return merged


@dataclass
class PromptLine:
    """Answers lines, and remembers which settings they changed.

    Args:
        changes: words by the names of the settings.
        last: the line of the last picture.
        repeats: how often it was drawn again.
        reported: messages that were printed already.
    """

    studio: Studio
    series: PictureSeries
    changes: dict[str, str] = field(default_factory=dict)
    last: TypedLine | None = None
    repeats: int = 0
    reported: set[str] = field(default_factory=set)

    def answer(self, line: str) -> None:
        """Do what a line asks for.

        Raises:
            ConfigError, ValueError, OSError: it cannot be done; the settings are as before.
        """
        if line.strip() == "?":
            print(self.list_settings())
            return
        typed = read_typed_line(line.strip())
        if typed.prompt is None and typed.words:
            changes = merge_changes(self.changes, typed.words)
            self.studio.read([*changes.values()])
            self.changes = changes
            print(f"now {' '.join(self.changes.values())}")
            return
        before = self.last, self.repeats
        if typed.prompt is not None:
            self.last, self.repeats = typed, 0
        elif self.last is not None:
            self.repeats += 1
        if self.last is None or self.last.prompt is None:
            return
        try:
            self.draw(self.last.prompt, [*merge_changes(self.changes, self.last.words).values()])
        except (ConfigError, ValueError):
            self.last, self.repeats = before  # what cannot be drawn is not drawn once more
            raise

    def draw(self, prompt: Prompt, changes: Sequence[str]) -> None:
        """Draw and write as many pictures of a prompt as the setting `count` says."""
        settings = self.studio.read(changes)
        first = settings.first_number + self.repeats * settings.count
        for number in range(first, first + settings.count):
            with Progress(transient=True) as progress:
                task = progress.add_task("drawing")

                def advance(step: int, steps: int, progress: Progress = progress) -> None:
                    progress.update(task, completed=step, total=steps)  # noqa: B023 - called within this turn only

                drawn = self.studio.draw(changes, prompt, number=number, on_progress=advance)
            for message in drawn.messages:
                if message not in self.reported:
                    note(message)
            self.reported.update(drawn.messages)
            attention = None if drawn.attention is None else draw_attention(drawn.attention, drawn.image)
            pixels = read_pixel_format(self.studio.trained.config.pixels)
            path = self.series.add(drawn.values, drawn.png_texts, str(prompt), pixels=pixels, attention=attention)
            print(f"{path}  ({drawn.seconds:.2f} s)")

    def list_settings(self) -> str:
        """Return the settings that may be changed, one a line, as they can be typed."""
        settings, lines = self.studio.read([*self.changes.values()]), list[str]()
        for name in type(settings).model_fields:
            if name in FIXED:
                continue
            value = getattr(settings, name)
            lines += words(name, value) if isinstance(value, Part) else [f"{name}={format_value(value)}"]
        return "\n".join(f"{'*' if key_of(line) in self.changes else ' '} {line}" for line in lines)


def run_prompt_line(settings: SampleSettings, read: Callable[[str], str] = input) -> None:
    """Answer lines until Ctrl-D.

    Args:
        read: returns the next line, after a text to show before it; raises EOFError at the end.

    Raises:
        ValueError: the run cannot be read, or pictures may not be written into `out`.
    """
    with PictureSeries(settings.out) as series, keeping_history():
        line = PromptLine(Studio(settings), series)
        for warning in warn_of_lossy_run(settings.run_dir):
            warn(warning)
        print(f"loaded {settings.run_dir}: {line.studio.describe()}\n{GUIDE.format(out=series.path)}")
        while True:
            try:
                typed = read("> ")
            except EOFError:
                break
            except KeyboardInterrupt:
                print()
                continue
            try:
                line.answer(typed)
            except KeyboardInterrupt:
                print("cancelled")
            except (ConfigError, ValueError, OSError, RuntimeError, MemoryError) as error:
                if settings.debug:
                    raise
                print(f"ldm-train: {str(error) or type(error).__name__}")
        print(f"\nwrote {series.count} pictures to {series.path}")
