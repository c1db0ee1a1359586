"""What the page's buttons do. Drawings wait for their turn in one queue; each browser has its own history."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import gradio as gr

from ldm_train.assembly.studio import Cancelled
from ldm_train.commands.playground.client_watch import watch_client
from ldm_train.commands.playground.page_inputs import PageInputs, read_box
from ldm_train.commands.playground.playground import Playground
from ldm_train.commands.playground.requested_settings import read_between
from ldm_train.commands.playground.result_html import (
    render_history,
    render_message,
    render_preview,
    render_result,
    render_row,
)
from ldm_train.commands.playground.sessions import BrowserSession, HistoryEntry
from ldm_train.commands.playground.streamed_drawing import Preview, stream_drawing
from ldm_train.settings.shipped import ConfigError
from ldm_train.util.messages import warn

FOUR = 4  # pictures of a grid of variations
CANCELLED = "cancelled"
Updates = list[object]  # for the result, the history, and the two lists of pictures


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    run: str
    prompt: object
    settings: dict[str, object]


class PageEvents:
    """The functions behind the buttons of a page."""

    def __init__(self, playground: Playground, inputs: PageInputs) -> None:
        self.playground, self.inputs = playground, inputs

    def draw_one(self, request: gr.Request, *values: object) -> Iterator[Updates]:
        """Draw one picture."""
        yield from self.stream(request, lambda: [Job(*self.inputs.read(values))], self.render_one)

    def draw_four(self, request: gr.Request, *values: object) -> Iterator[Updates]:
        """Draw pictures of four numbers, from the chosen one on."""
        yield from self.stream(request, lambda: self.list_variations(values), render_row)

    def list_variations(self, values: Sequence[object]) -> list[Job]:
        """Return the jobs of four numbers."""
        run, prompt, settings = self.inputs.read(values)
        first = settings.get("first_number", 0)
        if not isinstance(first, int | float):
            raise ValueError("the picture number must be a whole number")
        return [Job(run, prompt, settings | {"first_number": first + offset}) for offset in range(FOUR)]

    def compare(self, request: gr.Request, *values: object) -> Iterator[Updates]:
        """Draw the same noise by two settings; the last values are what the second one changes."""
        count = len(self.inputs.components)

        def list_both() -> list[Job]:
            names = ("run", "weights", "sampler", "steps", "guidance.scale")
            other = {
                name: read_box(name, value) if name in ("steps", "guidance.scale") else value
                for name, value in zip(names, values[count:], strict=True)
                if value not in (None, "", "same")
            }
            other_run = other.pop("run", None)
            run, prompt, settings = self.inputs.read(values[:count], None if other_run is None else str(other_run))
            return [Job(*self.inputs.read(values[:count])), Job(run, prompt, settings | other)]

        yield from self.stream(request, list_both, partial(render_row, labels=("this", "the other")))

    def interpolate(self, start: object, end: object, count: object, request: gr.Request) -> Updates:
        """Draw pictures on the way from one picture of the history to another."""
        session = self.playground.sessions.open(request.session_hash)
        try:
            ends = session.find(start), session.find(end)
            with session.drawing() as stop:
                entries = self.playground.interpolate(session, *ends, read_between(count), should_stop=stop.is_set)
            result = render_row(entries)
        except Cancelled:
            result = render_message(CANCELLED, "note")
        except Exception as error:
            result = self.render_error(error)
        return [result, *self.list_history(session)]

    def stream(
        self,
        request: gr.Request,
        list_jobs: Callable[[], list[Job]],
        render: Callable[[Sequence[HistoryEntry]], str],
    ) -> Iterator[Updates]:
        """Yield previews of each job, then all pictures, with the history."""
        session = self.playground.sessions.open(request.session_hash)
        with session.drawing() as stop:
            entries: list[HistoryEntry] = []
            try:
                jobs = list_jobs()
                for place, job in enumerate(jobs):
                    of = f"{place + 1} of {len(jobs)}: " if len(jobs) > 1 else ""
                    yield from self.stream_job(session, job, stop, entries, of)
                result = render(entries)
            except Cancelled:
                result = render_message(CANCELLED, "note")
            except Exception as error:
                result = self.render_error(error)
            yield [result, *self.list_history(session)]

    def stream_job(
        self, session: BrowserSession, job: Job, stop: threading.Event, entries: list[HistoryEntry], of: str
    ) -> Iterator[Updates]:
        """Yield the previews of one picture, and add it to `entries`.

        Raises:
            Cancelled, ValueError: as `Playground.draw`.
        """
        call = partial(self.playground.draw, session, job.run, job.prompt, job.settings)
        for found in stream_drawing(lambda on_step, should_stop: call(on_step=on_step, should_stop=should_stop), stop):
            if isinstance(found, Preview):
                yield [render_preview(found.image, found.step, found.steps, of), gr.skip(), gr.skip(), gr.skip()]
            elif found.error is not None:
                raise found.error
            else:
                assert found.result is not None
                entries.append(found.result)

    def render_one(self, entries: Sequence[HistoryEntry]) -> str:
        """Return a picture with all that is known about it."""
        [entry] = entries
        return render_result(entry, self.playground.list_tokens(entry.run, entry.prompt) if entry.restorable else None)

    def render_error(self, error: Exception) -> str:
        """Return why something could not be drawn."""
        return render_message(self.describe_error(error))

    def describe_error(self, error: Exception) -> str:
        """Return why something could not be drawn; what is no message for a person is reported in the terminal too."""
        text = (str(error) or type(error).__name__).encode(errors="backslashreplace").decode()
        if not isinstance(error, ConfigError | ValueError | OSError):
            warn(f"drawing failed: {type(error).__name__}: {text}")
        return text

    def list_history(self, session: BrowserSession) -> Updates:
        """Return a session's history, and the lists of its pictures to interpolate between."""
        names = [(f"{entry.number}: {entry.prompt[:60]}", entry.number) for entry in session.entries if entry.restorable]
        ends = [names[-2][1], names[-1][1]] if len(names) > 1 else [None, None]
        return [render_history(session.entries), *(gr.update(choices=names, value=end) for end in ends)]

    def cancel(self, request: gr.Request) -> str:
        """Stop what this browser draws, and say so after its last preview."""
        self.playground.sessions.open(request.session_hash).cancel()
        return render_message(CANCELLED, "note")

    def restore(self, request: gr.Request, event: gr.EventData) -> Updates:
        """Return a picture of the history with all its settings, as values of all inputs."""
        session = self.playground.sessions.open(request.session_hash)
        try:
            entry = session.find(getattr(event, "entry", None))
        except ValueError as error:
            return [render_message(str(error)), *[gr.skip()] * len(self.inputs.components)]
        if not entry.restorable:
            text = f"picture {entry.number} is between two others: its command draws it again; no settings were restored"
            return [render_message(text, "note") + self.render_one([entry]), *[gr.skip()] * len(self.inputs.components)]
        values = self.inputs.write(entry.run, entry.prompt, entry.settings)
        return [self.render_one([entry]), *(gr.update(value=value) for value in values.values())]

    def leave(self, request: gr.Request) -> None:
        """Stop what a browser that left was drawing, and forget its history."""
        self.playground.sessions.close(request.session_hash)

    def draw_by_api(
        self, prompt: str, settings: dict[str, object] | None = None, run: str = "", request: gr.Request | None = None
    ) -> dict[str, object]:
        """Draw one picture; return its address, the command that draws the same, and notes.

        Args:
            prompt: what to draw.
            settings: by the names of `ldm-train sample`, such as {"steps": 30, "guidance.scale": 4}; files by the names
                that POST /uploads returned.
            run: one of the page's runs; "" for the first.
        """
        name = None if request is None else request.session_hash
        session, stop = self.playground.sessions.open(name), watch_client(self.playground.awaited, name)
        try:
            run = run or self.playground.first
            entry = self.playground.draw(session, run, prompt, settings or {}, should_stop=stop)
            tokens = self.playground.list_tokens(entry.run, entry.prompt)
        except Cancelled as error:
            raise gr.Error(CANCELLED, print_exception=False) from error
        except Exception as error:
            raise gr.Error(self.describe_error(error), print_exception=False) from error
        return {
            "picture": f"/pictures/{entry.path}",
            "command": entry.command,
            "seconds": entry.seconds,
            "step": entry.step,
            "messages": [*entry.messages, *(tokens.list_notes() if tokens else [])],
        }
