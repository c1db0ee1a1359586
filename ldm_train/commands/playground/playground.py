"""The runs that a page draws with, and the folder that it writes to; what of it is in a browser is the page's."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ldm_train.assembly.attention_picture import draw_attention
from ldm_train.assembly.opened_run import Stamp, read_stamp
from ldm_train.assembly.stacked_adapters import list_adapters
from ldm_train.assembly.studio import OnStep, ShouldStop, Studio, end_if
from ldm_train.assembly.upscaling import open_upscaler
from ldm_train.commands.playground.page_tokens import PromptTokens, list_prompt_tokens
from ldm_train.commands.playground.requested_settings import read_request, read_text
from ldm_train.commands.playground.sessions import BrowserSession, HistoryEntry, Sessions
from ldm_train.commands.playground.uploads import Uploads
from ldm_train.data.pictures.images import encode_png
from ldm_train.settings.composition import compose_as
from ldm_train.settings.python_values import PythonValues
from ldm_train.settings.schema.commands import default_values
from ldm_train.settings.schema.options import list_part_groups
from ldm_train.settings.schema.using import PlaygroundSettings, SampleSettings
from ldm_train.settings.shipped import ConfigError
from ldm_train.util.messages import note, warn
from ldm_train.util.safe_json import parse_json
from ldm_train.util.text import list_names, shorten

FOLLOWED = 5.0  # seconds between two looks for a new checkpoint


class Playground:
    """Runs that stay loaded, with what browsers draw and send.

    Args:
        folder: all that is written is below it.

    Attributes:
        awaited: how many requests wait for an answer, by the names of events and sessions.

    Raises:
        ValueError: a run cannot be opened.
    """

    def __init__(self, settings: PlaygroundSettings, folder: Path) -> None:
        self.settings = settings
        self.uploads, self.sessions = Uploads(folder / "uploads"), Sessions(folder / "pictures")
        self.studios = {path: Studio(build_sample_settings(settings, path)) for path in list_runs(settings)}
        self.choices = {path: studio.choices for path, studio in self.studios.items()}
        self.steps = {path: studio.step for path, studio in self.studios.items()}
        if settings.upscaler is not None:  # to fail now, if it cannot be opened
            open_upscaler(build_sample_settings(settings, self.first).with_values(upscaler=settings.upscaler))
        self.adapters = dict(list_adapters(settings.adapters))
        self.awaited: Counter[str] = Counter()
        self._failed: dict[str, Stamp | None] = {}  # the file of weights that a run could not load last
        self._over, self._drawing = threading.Event(), threading.Lock()
        if settings.follow:
            threading.Thread(target=self._follow, name="following", daemon=True).start()

    @property
    def first(self) -> str:
        """The run that is chosen at first."""
        return next(iter(self.studios))

    def close(self) -> None:
        """End what is drawn, and stop following runs."""
        self._over.set()

    def is_idle(self, seconds: float) -> bool:
        """Return whether nothing is drawn, at the latest after some seconds."""
        if idle := self._drawing.acquire(timeout=seconds):
            self._drawing.release()
        return idle

    @contextmanager
    def drawing(self, should_stop: ShouldStop | None) -> Iterator[ShouldStop]:
        """Wait until nothing else is drawn, and give the block what says whether it is to end.

        Raises:
            Cancelled: it is to end already.
        """

        def is_over() -> bool:
            return self._over.is_set() or (should_stop is not None and should_stop())

        with self._drawing:
            end_if(is_over)
            yield is_over

    def draw(
        self,
        session: BrowserSession,
        run: str,
        prompt: object,
        settings: Mapping[str, object],
        *,
        on_step: OnStep | None = None,
        should_stop: ShouldStop | None = None,
    ) -> HistoryEntry:
        """Draw a picture, write it, and list it in a session's history.

        Raises:
            ValueError: there is no such run, or it cannot draw so.
            Cancelled: `should_stop` returned True.
        """
        studio, choices, text = self.find_studio(run), self.choices[run], read_text("prompt", prompt)
        changes = read_request(settings, choices, self.adapters, self.uploads, upscaler=self.settings.upscaler)
        with self.drawing(should_stop) as is_over:
            drawn = studio.draw(changes, text, on_step=on_step, should_stop=is_over)
        session.count += 1
        number = session.count
        attention = None
        if drawn.attention is not None:
            maps = encode_png(draw_attention(drawn.attention, drawn.image))
            attention = self.sessions.save(session, f"{number:05d}-attention.png", maps)
        entry = HistoryEntry(
            number,
            self.sessions.save(session, f"{number:05d}.png", drawn.png),
            run,
            text,
            dict(settings),
            drawn.command,
            drawn.seconds,
            read_step(drawn.png_texts),
            drawn.messages,
            attention,
        )
        session.add(entry)
        return entry

    def interpolate(
        self,
        session: BrowserSession,
        start: HistoryEntry,
        end: HistoryEntry,
        count: int,
        *,
        should_stop: ShouldStop | None = None,
    ) -> list[HistoryEntry]:
        """Draw pictures on the way from one picture of a session to another, by the settings of the first.

        Raises:
            ValueError: there is no such way between them, or it cannot be drawn.
            Cancelled: `should_stop` returned True.
        """
        check_ends(start, end)
        studio, choices = self.find_studio(start.run), self.choices[start.run]
        first, last = (
            read_request(
                {name: value for name, value in one.settings.items() if name != "upscaler"},
                choices,
                self.adapters,
                self.uploads,
            )
            for one in (start, end)
        )
        numbers = [one.get("first_number", studio.settings.first_number) for one in (first, last)]
        if numbers[0] != numbers[1]:
            raise ValueError(
                f"picture {start.number} has the picture number {numbers[0]}, and picture {end.number} has {numbers[1]}: "
                "the way goes from one seed to another with the same number; draw one of them again with the other's "
                "picture number and another seed"
            )
        seed = last.get("seed", studio.settings.seed)
        assert isinstance(seed, int)
        begin, prompts = time.perf_counter(), (start.prompt, end.prompt)
        with self.drawing(should_stop) as is_over:
            own = first | {"attention": False}
            drawn = studio.interpolate(own, prompts, count=count, to_seed=seed, should_stop=is_over)
        seconds, same = (time.perf_counter() - begin) / count, {"seed": None, "attention": None}
        remark = f"all are drawn with the settings of picture {start.number}, except for prompt and seed"
        messages = (*(remark,) * (first | same != last | same), *drawn.messages)
        for picture in drawn.pictures:
            session.count += 1
            path = self.sessions.save(session, f"{session.count:05d}.png", encode_png(picture.image, picture.png_texts))
            step = read_step(picture.png_texts)
            session.add(
                HistoryEntry(
                    session.count,
                    path,
                    start.run,
                    picture.name,
                    {},
                    drawn.command,
                    seconds,
                    step,
                    messages,
                    restorable=False,
                )
            )
        return session.entries[-count:]

    def find_studio(self, run: str) -> Studio:
        """Return what draws with a run of the page.

        Raises:
            ValueError: the page has no such run.
        """
        if not isinstance(run, str) or run not in self.studios:
            raise ValueError(f"run={shorten(str(run))} is not on this page, which has {list_names(self.studios, 20)}")
        return self.studios[run]

    def list_tokens(self, run: str, prompt: str) -> PromptTokens | None:
        """Return how a run reads a prompt; None if it reads no texts."""
        return list_prompt_tokens(self.find_studio(run).trained, prompt)

    def _follow(self) -> None:
        while not self._over.wait(FOLLOWED):
            for run in self.studios:
                self.refresh(run)

    def refresh(self, run: str) -> None:
        """Load a run's newest checkpoint; if that fails, the one before remains, and each file is reported once."""
        studio = self.studios[run]
        try:
            if studio.refresh():
                self.steps[run] = studio.step
                note(f"{run}: drawing with step {self.steps[run]:,} from now on")
        except (ConfigError, ValueError, OSError, RuntimeError) as error:  # the run may be writing, or memory is full
            stamp = read_stamp(studio.settings)
            if run in self._failed and self._failed[run] == stamp:
                return
            self._failed[run] = stamp
            warn(f"{run}: the new checkpoint cannot be loaded, so the one before is used: {error}")


def check_ends(start: HistoryEntry, end: HistoryEntry) -> None:
    """Refuse pictures between which there is no way.

    Raises:
        ValueError: they are of different runs, or one of them is between two others itself.
    """
    if start.run != end.run:
        raise ValueError(
            f"picture {start.number} is of {start.run}, and picture {end.number} of {end.run}: choose two of one run"
        )
    for one in (start, end):
        if not one.restorable:
            raise ValueError(f"picture {one.number} is between two others; choose one that was drawn from a prompt")


def list_runs(settings: PlaygroundSettings) -> list[str]:
    """Return the runs of the settings, each once."""
    return list(dict.fromkeys([settings.run_dir] if isinstance(settings.run_dir, str) else settings.run_dir))


def build_sample_settings(settings: PlaygroundSettings, run: str) -> SampleSettings:
    """Return the settings that pictures of a run are drawn by, unless the page changes them."""
    defaults, groups, plain = default_values("sample"), list_part_groups(SampleSettings), settings.as_plain()
    shared = {name: plain[name] for name in plain if name in defaults and name not in ("out", "upscaler")}
    given = {name: value for name, value in shared.items() if name in groups or value != defaults[name]}
    own = {"run_dir": run, "prompts": [""], "out": "drawn"}
    return compose_as(SampleSettings, [], PythonValues("sample", given | own).values)


def read_step(texts: Mapping[str, str]) -> int:
    """Return the step of the weights by which a picture was drawn, from the texts of its PNG file."""
    metadata = parse_json(texts["ldm_train"])
    assert isinstance(metadata, dict)
    step = metadata["step"]
    assert isinstance(step, int)
    return step
