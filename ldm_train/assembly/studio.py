"""Keep a run loaded, to draw again and again with other prompts and settings.

A picture is that of `ldm-train sample` with the same settings, byte for byte.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.cut_texts import warn_of_cut_prompts
from ldm_train.assembly.opened_run import OpenedRun, read_stamp
from ldm_train.assembly.picture_groups import PictureGroup, draw_batch, group_pictures
from ldm_train.assembly.png_text import build_png_texts
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.prompts import list_texts
from ldm_train.assembly.sample_command import write_sample_command
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run, open_run
from ldm_train.assembly.strip_pictures import Interpolated, StripPicture, draw_between, prepare_strip
from ldm_train.assembly.studio_choices import Choices, list_choices
from ldm_train.assembly.studio_settings import Changes, StudioSettings
from ldm_train.assembly.word_attention import WordAttention
from ldm_train.data.pictures.images import encode_png, save_png, to_bytes, to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.settings.composition import refuse_interpolations
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.trust import current_grants, granted
from ldm_train.settings.without_effect import notes
from ldm_train.util.messages import collecting_messages, note_all, warn
from ldm_train.util.prompt_syntax import list_syntax_notes

MOST_LOADED = 3  # runs that stay loaded at most
OnStep = Callable[[int, int, Tensor], None]
OnProgress = Callable[[int, int], None]
ShouldStop = Callable[[], bool]


class Cancelled(Exception):  # noqa: N818 - it is no error
    """A drawing was stopped before its end, as it was asked to."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and all that decides it.

    Attributes:
        image: uint8 (3, H, W).
        values: what was drawn, (C, H, W) in [-1, 1], of which `image` shows 8 bits of RGB.
        settings: complete, with what they leave to the run.
        number: of its noise.
        seconds: that drawing took.
        png_texts: the texts of its PNG file.
        command: the command line that draws it, quoted for a shell.
        messages: notes and, of the class `Caution`, warnings.
        attention: to each word of the prompt, with attention=true.
    """

    image: Tensor
    values: Tensor
    settings: SampleSettings
    prompt: str
    number: int
    seconds: float
    png_texts: dict[str, str]
    command: str
    messages: tuple[str, ...] = ()
    attention: WordAttention | None = None

    @property
    def png(self) -> bytes:
        """The bytes of its PNG file."""
        return encode_png(self.image, self.png_texts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write its PNG file, atomically."""
        save_png(self.image, Path(path), self.png_texts)


class Studio:
    """A run that stays loaded. Threads may share it: it draws one picture at a time.

    What own code a config may name is decided where the studio is made.

    Args:
        settings: those of `ldm-train sample`; `prompts` has no effect.

    Raises:
        ValueError: the run cannot be read.
    """

    def __init__(self, settings: SampleSettings) -> None:
        self._settings = StudioSettings(settings)
        self._grants = current_grants()
        self._lock = threading.RLock()
        self._opened: dict[str, OpenedRun] = {}  # the one that was used last at the end
        self._upscalers: dict[str, TrainedRun] = {}
        self._stamp = read_stamp(settings)
        self._open(settings)

    @property
    def trained(self) -> TrainedRun:
        """The run that the settings name, as it is loaded."""
        return self._base()

    @property
    def step(self) -> int:
        """The optimizer step of the weights."""
        return self._base().step

    @property
    def settings(self) -> SampleSettings:
        """The settings without changes, complete with what they leave to the run."""
        return fill_from_run(self._settings.base, self._base().config)

    @property
    def choices(self) -> Choices:
        """What may be chosen of the run that the settings name."""
        with self._lock, granted(self._grants):
            return list_choices(self._base(), self.settings)

    def describe(self) -> str:
        """Return what is loaded, in one line."""
        return repr(self._base())

    def read(self, changes: Changes = ()) -> SampleSettings:
        """Return the settings with changes, checked, complete with what they leave to their run.

        Args:
            changes: values by the settings' dotted names, such as `{"guidance.scale": 3.0, "sampler": "heun"}`; texts are
                taken as they are. Or words as on the command line: `["steps=30", "number.age=40"]`.

        Raises:
            ConfigError: an unknown setting, or a value of another type.
            ValueError: a value out of range, or a run that cannot be read.
        """
        with granted(self._grants):
            settings = self._settings.read(changes)
            with self._lock:
                return fill_from_run(settings, self._open(settings).config)

    def draw(
        self,
        changes: Changes,
        prompt: str | Prompt,
        *,
        number: int | None = None,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Drawn:
        """Draw one picture of a prompt.

        Args:
            changes: as of `read`.
            prompt: a text, taken as it is, or a prompt with settings of its own.
            number: of the noise; None for the settings' `first_number`.
            on_step: called after each step with its number (from 1), the number of steps, and the picture that the network
                expects at this point, uint8 (3, H, W), which takes time to decode.
            on_progress: called after each step with its number and the number of steps.
            should_stop: called at each step; if it returns True, drawing ends.

        Raises:
            ConfigError, ValueError: as `read`, or the picture cannot be drawn, or is not finite.
            Cancelled: `should_stop` returned True.
        """
        with self._lock, granted(self._grants), collecting_messages() as messages:
            start = time.perf_counter()
            prompt = Prompt(prompt, "prompt") if isinstance(prompt, str) else prompt
            settings = self._settings.read(changes)
            first = settings.first_number if number is None else number
            settings = settings.with_values(count=1, first_number=first, prompts=[prompt.as_mapping()])
            refuse_interpolations(settings.prompts)
            trained = self._open(settings)
            report_prompts(settings, [prompt], trained)
            [alike] = group_pictures(settings, [prompt], trained, open_it=self._open_upscaler)
            images, [attention] = draw_batch(alike, callback=StepReport(alike, on_step, on_progress, should_stop))
            return Drawn(
                to_bytes(images)[0],
                images[0],
                alike.settings,
                prompt.text,
                alike.numbers[0],
                time.perf_counter() - start,
                build_png_texts(alike.settings, alike.trained, prompt.text, alike.numbers[0]),
                write_sample_command(settings, prompt),
                tuple(messages),
                attention,
            )

    def interpolate(
        self,
        changes: Changes,
        prompts: tuple[str, str],
        *,
        count: int,
        to_seed: int,
        should_stop: ShouldStop | None = None,
    ) -> Interpolated:
        """Draw `count` pictures on the way from one prompt and the seed to another prompt and `to_seed`.

        Args:
            should_stop: called at each step; if it returns True, drawing ends.

        Raises:
            ConfigError, ValueError, Cancelled: as `draw`.
        """
        with self._lock, granted(self._grants), collecting_messages() as messages:
            texts = [Prompt(text, "prompt") for text in prompts]
            settings = self._settings.read(changes).with_values(
                prompts=[text.as_mapping() for text in texts], count=1, interpolate=count, to_seed=to_seed
            )
            refuse_interpolations(settings.prompts)
            trained = self._open(settings)
            report_prompts(settings, texts, trained)
            strip, pictures = prepare_strip(settings, trained, prompts), list[StripPicture]()
            for part in torch.linspace(0, 1, count).split(settings.batch_size):  # as the command does it, byte for byte
                seeds = (settings.seed, to_seed)
                pictures += draw_between(strip, prompts, seeds, part, callback=lambda *_: end_if(should_stop))
            return Interpolated(pictures, write_sample_command(settings, *texts), tuple(messages))

    def refresh(self) -> bool:
        """Load the run's newest weights if they changed, and return whether they did.

        Raises:
            ValueError: they cannot be loaded; the weights that were loaded before remain.
        """
        with self._lock, granted(self._grants):
            stamp = read_stamp(self._settings.base)
            if stamp in (None, self._stamp):
                return False
            opened = OpenedRun(self._settings.base)
            self._opened, self._stamp = {opened.key: opened}, stamp
            self._settings.forget()
            return True

    def _base(self) -> TrainedRun:
        """Return the run that the settings name, with whatever adapters are merged at the moment."""
        with self._lock, granted(self._grants):
            return self._find(self._settings.base).trained

    def _open_upscaler(self, settings: SampleSettings) -> TrainedRun:
        """Return a run that enlarges, which stays loaded."""
        if settings.run_dir not in self._upscalers:
            self._upscalers[settings.run_dir] = open_run(settings)
        return self._upscalers[settings.run_dir]

    def _open(self, settings: SampleSettings) -> TrainedRun:
        """Return the run that settings name, with their weights and adapters."""
        return self._find(settings).merge(settings.adapters)

    def _find(self, settings: SampleSettings) -> OpenedRun:
        key = OpenedRun.key_of(settings)
        opened = self._opened.pop(key, None) or OpenedRun(settings)
        self._opened[key] = opened
        for oldest in [*self._opened][:-MOST_LOADED]:
            del self._opened[oldest]
        return opened


@dataclass(frozen=True)
class StepReport:
    """Report each step of a sampler, or end the drawing; the arguments are those of `Studio.draw`.

    Raises:
        Cancelled: it is to be stopped.
    """

    alike: PictureGroup
    on_step: OnStep | None
    on_progress: OnProgress | None
    should_stop: ShouldStop | None

    def __call__(self, number: int, x_s: Tensor, estimate: Estimate) -> None:
        end_if(self.should_stop)
        initial, steps = self.alike.start.initial, self.alike.recipe.steps
        steps = steps if initial is None else max(1, round(initial.strength * steps))
        if self.on_progress is not None:
            self.on_progress(number + 1, steps)
        if self.on_step is not None:
            image = self.alike.start.paste(self.alike.trained.generation.decode(estimate.clean))
            self.on_step(number + 1, steps, to_display_bytes(image)[0].cpu())


def end_if(should_stop: ShouldStop | None) -> None:
    """Raise `Cancelled` if drawing is to end."""
    if should_stop is not None and should_stop():
        raise Cancelled


def report_prompts(settings: SampleSettings, prompts: list[Prompt], trained: TrainedRun) -> None:
    """Note which settings have no effect, and how prompts are read; warn of texts that are cut."""
    note_all([*notes("sample", settings), *list_syntax_notes([prompt.text for prompt in prompts], "prompt")])
    for name, texts in (("prompt", list_texts(prompts)), ("negative_prompt", [settings.negative_prompt])):
        for line in warn_of_cut_prompts(trained.parts.text_encoder, texts, setting=name):
            warn(line)
