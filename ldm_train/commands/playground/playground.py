"""The runs that a page draws with, and the folder that it writes to; what of it is in a browser is the page's."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ldm_train.assembly.attention_picture import draw_attention
from ldm_train.assembly.stacked_adapters import list_adapters
from ldm_train.assembly.studio import OnStep, ShouldStop, Studio
from ldm_train.commands.playground.prompt_tokens import PromptTokens, list_prompt_tokens
from ldm_train.commands.playground.requested_settings import read_request, read_text, read_whole
from ldm_train.commands.playground.sessions import BrowserSession, HistoryEntry, Sessions
from ldm_train.commands.playground.uploads import Uploads
from ldm_train.data.pictures.images import encode_png
from ldm_train.settings.composition import compose_as
from ldm_train.settings.python_values import PythonValues
from ldm_train.settings.schema.commands import default_values
from ldm_train.settings.schema.options import list_part_groups
from ldm_train.settings.schema.using import PlaygroundSettings, SampleSettings
from ldm_train.util.messages import note, warn
from ldm_train.util.safe_json import parse_json
from ldm_train.util.text import list_names

FOLLOWED = 5.0  # seconds between two looks for a new checkpoint


class Playground:
    """Runs that stay loaded, with what browsers draw and send.

    Args:
        folder: all that is written is below it.

    Raises:
        ValueError: a run cannot be opened.
    """

    def __init__(self, settings: PlaygroundSettings, folder: Path) -> None:
        self.settings = settings
        self.uploads, self.sessions = Uploads(folder / "uploads"), Sessions(folder / "pictures")
        self.studios = {path: Studio(build_sample_settings(settings, path)) for path in list_runs(settings)}
        self.choices = {path: studio.choices for path, studio in self.studios.items()}
        self.steps = {path: studio.step for path, studio in self.studios.items()}
        self.adapters = dict(list_adapters(settings.adapters))
        self._over = threading.Event()
        if settings.follow:
            threading.Thread(target=self._follow, name="following", daemon=True).start()

    @property
    def first(self) -> str:
        """The run that is chosen at first."""
        return next(iter(self.studios))

    def close(self) -> None:
        """Stop following runs."""
        self._over.set()

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
        changes = read_request(settings, choices, self.adapters, self.uploads)
        if self.settings.follow:
            self.refresh(run)
        drawn = studio.draw(changes, text, on_step=on_step, should_stop=should_stop)
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

    def interpolate(self, session: BrowserSession, start: HistoryEntry, end: HistoryEntry, count: int) -> list[HistoryEntry]:
        """Draw pictures on the way from one picture of a session to another, by the settings of the first.

        Raises:
            ValueError: they are of different runs, or start from a picture.
        """
        if start.run != end.run:
            raise ValueError(
                f"picture {start.number} is of {start.run}, and picture {end.number} of {end.run}: choose two of one run"
            )
        if "picture" in start.settings:
            raise ValueError(
                f"picture {start.number} began from a picture, and an interpolation begins from noise; choose another"
            )
        studio = self.find_studio(start.run)
        changes = read_request(start.settings, self.choices[start.run], self.adapters, self.uploads) | {"attention": False}
        seed = read_whole("seed", end.settings.get("seed", studio.settings.seed))
        begin = time.perf_counter()
        pictures, command = studio.interpolate(changes, (start.prompt, end.prompt), count=count, to_seed=seed)
        seconds = (time.perf_counter() - begin) / count
        others = {**start.settings, "seed": None} != {**end.settings, "seed": None}
        notes = (f"all are drawn with the settings of picture {start.number}, except for prompt and seed",) if others else ()
        for picture in pictures:
            session.count += 1
            path = self.sessions.save(session, f"{session.count:05d}.png", encode_png(picture.image, picture.png_texts))
            step = read_step(picture.png_texts)
            session.add(
                replace(start, number=session.count, path=path, command=command, seconds=seconds, step=step, messages=notes)
            )
        return session.entries[-count:]

    def find_studio(self, run: str) -> Studio:
        """Return what draws with a run of the page.

        Raises:
            ValueError: the page has no such run.
        """
        if run not in self.studios:
            raise ValueError(f"run={run} is not on this page, which has {list_names(self.studios, 20)}")
        return self.studios[run]

    def list_tokens(self, run: str, prompt: str) -> PromptTokens | None:
        """Return how a run reads a prompt; None if it reads no texts."""
        return list_prompt_tokens(self.find_studio(run).trained, prompt)

    def _follow(self) -> None:
        while not self._over.wait(FOLLOWED):
            for run in self.studios:
                self.refresh(run)

    def refresh(self, run: str) -> None:
        """Load a run's newest checkpoint; if that fails, the one before remains."""
        try:
            if self.studios[run].refresh():
                self.steps[run] = self.studios[run].step
                note(f"{run}: drawing with step {self.steps[run]:,} from now on")
        except (ValueError, OSError) as error:  # the run may be writing; the weights before remain
            warn(f"{run}: the new checkpoint cannot be loaded, so the one before is used: {error}")


def list_runs(settings: PlaygroundSettings) -> list[str]:
    """Return the runs of the settings, each once."""
    return list(dict.fromkeys([settings.run_dir] if isinstance(settings.run_dir, str) else settings.run_dir))


def build_sample_settings(settings: PlaygroundSettings, run: str) -> SampleSettings:
    """Return the settings that pictures of a run are drawn by, unless the page changes them."""
    defaults, groups, plain = default_values("sample"), list_part_groups(SampleSettings), settings.as_plain()
    shared = {name: plain[name] for name in plain if name in defaults and name != "out"}
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
