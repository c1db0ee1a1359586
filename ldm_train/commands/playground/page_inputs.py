"""The page's inputs: one component for each setting, and how their values become settings and back."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import gradio as gr
from gradio.components import Component

from ldm_train.commands.playground.page_examples import list_examples, place_examples
from ldm_train.commands.playground.playground import Playground
from ldm_train.commands.playground.requested_settings import WEIGHTS
from ldm_train.commands.playground.result_html import render_upload
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.safe_json import parse_json
from ldm_train.util.text import shorten

AS_RUN = "as the run"
FILES = ("picture", "mask", "maps")  # hidden; the page's script gives them when something is drawn


@dataclass
class PageInputs:
    """The components by the names of their settings; files first, then `run` and `prompt`.

    Attributes:
        adapters: the paths of adapters by the names of their sliders.
        boxes: the names of settings that are numbers in a box.
    """

    playground: Playground
    components: dict[str, Component] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    boxes: set[str] = field(default_factory=set)

    @property
    def all(self) -> list[Component]:
        """Every component, in a fixed order."""
        return [*self.components.values()]

    def add(self, name: str, component: Component) -> Component:
        """Take a component in under the name of a setting."""
        self.components[name] = component
        return component

    def add_box(
        self, name: str, label: str, value: float | None = None, *, elem_id: str | None = None, placeholder: str = ""
    ) -> None:
        """Place a box for a number under the name of a setting."""
        self.boxes.add(name)
        self.add(name, number_box(label, value, elem_id=elem_id, placeholder=placeholder))

    def read(self, values: Sequence[object], run: str | None = None) -> tuple[str, object, dict[str, object]]:
        """Return the run, the prompt and the settings of the components' values, without what is left to the run.

        Args:
            run: instead of the chosen one.

        Raises:
            ValueError: there are more or fewer values than components.
        """
        if len(values) != len(self.components):
            raise ValueError("the playground restarted; reload the page")
        given = dict(zip(self.components, values, strict=True))
        settings = {
            name: read_box(name, value) if name in self.boxes else value
            for name, value in given.items()
            if value not in (None, "", AS_RUN)
        }
        chosen, prompt, maps = settings.pop("run", ""), settings.pop("prompt", ""), settings.pop("maps", "{}")
        low, high = settings.pop("low", None), settings.pop("high", None)
        if low is not None or high is not None:
            settings["guidance.interval"] = [0 if low is None else low, high]
        height, width = settings.pop("height", None), settings.pop("width", None)
        run = str(chosen) if run is None else run
        choices = self.playground.choices.get(run)
        if choices is not None and (height is not None or width is not None):
            settings["size"] = [height or choices.size[0], width or choices.size[1]]
        if settings.get("weights") == self.playground.settings.weights:  # also a file, which a browser cannot name
            del settings["weights"]
        if "picture" not in settings:
            settings = {name: value for name, value in settings.items() if name not in ("strength", "mask")}
        read = parse_json(str(maps))
        if not isinstance(read, dict):
            raise ValueError(f"maps={shorten(str(maps))} must be the names of uploads by those of the maps")
        settings |= {f"map.{name}": value for name, value in read.items()}
        if settings.pop("enlarge", False):
            settings["upscaler"] = self.playground.settings.upscaler
        factors = {path: settings.pop(name, 0) for name, path in self.adapters.items()}
        if factors:
            settings["adapters"] = factors
        if choices is not None:  # inputs of another run have no effect on this one
            known = {f"number.{name}" for name in choices.numbers} | {f"map.{name}" for name in choices.maps}
            settings = {n: v for n, v in settings.items() if not n.startswith(("number.", "map.")) or n in known}
        return run, prompt, settings

    def write(self, run: str, prompt: str, settings: Mapping[str, object]) -> dict[str, object]:
        """Return the values of all components for a picture that was drawn."""
        pair = settings.get("guidance.interval") or [None, None]
        size = settings.get("size") or [None, None]
        factors = settings.get("adapters") or {}
        assert isinstance(pair, list)
        assert isinstance(size, list)
        assert isinstance(factors, dict)
        maps = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith("map.")}
        special: dict[str, object] = {"run": run, "prompt": prompt, "maps": write_json(maps)}
        special |= {"low": pair[0], "high": pair[1], "height": size[0], "width": size[1]}
        special |= {name: factors.get(path, 0) for name, path in self.adapters.items()}
        special["enlarge"] = "upscaler" in settings
        unset: dict[str, object] = {
            **dict.fromkeys(("sampler", "spacing"), AS_RUN),
            **{
                "weights": self.playground.settings.weights,
                "seed": self.playground.studios[self.playground.first].settings.seed,
                "first_number": 0,
                "strength": 1.0,
                "attention": False,
            },
            **dict.fromkeys(("negative_prompt", "picture", "mask"), ""),
        }
        return {name: special[name] if name in special else settings.get(name, unset.get(name)) for name in self.components}


def write_json(value: Mapping[str, object]) -> str:
    """Return a mapping of texts as JSON."""
    return json.dumps(value)


def build_inputs(playground: Playground) -> tuple[PageInputs, Callable[[], None]]:
    """Return the inputs, with the prompt's placed, and a function that places the others."""
    inputs = PageInputs(playground)
    for name in FILES:
        inputs.add(name, gr.Textbox(visible="hidden", elem_id=f"file-{name}", container=False))
    runs = [*playground.studios]
    inputs.add("run", gr.Dropdown(runs, value=runs[0], label="run", visible=len(runs) > 1, elem_id="run"))
    classes = [*dict.fromkeys(name for one in playground.choices.values() for name in one.classes)]
    prompt = inputs.add(
        "prompt",
        gr.Dropdown(classes, value=classes[0], label="prompt", allow_custom_value=True, elem_id="prompt")
        if classes
        else gr.Textbox(label="prompt", lines=2, max_lines=6, elem_id="prompt", placeholder="what to draw"),
    )
    if isinstance(prompt, gr.Textbox) and (examples := list_examples(playground.studios[runs[0]].trained.config)):
        place_examples(examples, prompt)

    def place() -> None:
        inputs.add("negative_prompt", gr.Textbox(label="negative prompt", elem_id="negative"))
        place_conditions(inputs)
        place_settings(inputs)
        place_picture(inputs)

    return inputs, place


def number_box(label: str, value: float | None = None, *, elem_id: str | None = None, placeholder: str = "") -> gr.Textbox:
    """Return a box for a number; an empty one leaves it to the run. Gradio's own boxes turn an empty one into 0."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return gr.Textbox(text, label=label, max_lines=1, min_width=110, elem_id=elem_id, placeholder=placeholder)


def read_box(name: str, value: object) -> object:
    """Return the number in a box.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str):
        return value
    try:
        return int(value) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value) else float(value)
    except ValueError as error:
        raise ValueError(f"{name}={shorten(value)} must be a number, or empty") from error


def place_conditions(inputs: PageInputs) -> None:
    """Place a box for each number that a run is conditioned on, a file for each map, and a slider for each adapter."""
    choices = inputs.playground.choices.values()
    numbers = {name: limits for one in choices for name, limits in one.numbers.items()}
    maps = [*dict.fromkeys(name for one in choices for name in one.maps)]
    for name, limits in numbers.items():
        trained = "" if limits is None else f", trained from {limits[0]:g} to {limits[1]:g}"
        inputs.add_box(f"number.{name}", f"{name}{trained}", elem_id=f"number-{name}")
    for name in maps:
        gr.HTML(render_upload(f"map.{name}", f"map: {name}"), js_on_load=None)
    for place, (path, factor) in enumerate(inputs.playground.adapters.items()):
        inputs.adapters[f"adapter-{place}"] = path
        slider = gr.Slider(-1, 2, value=factor, step=0.05, label=f"factor of {path}", elem_id=f"adapter-{place}")
        inputs.add(f"adapter-{place}", slider)


def place_settings(inputs: PageInputs) -> None:
    """Place what decides how a picture is drawn."""
    playground = inputs.playground
    choices, settings = [*playground.choices.values()], playground.studios[playground.first].settings
    samplers, spacings = (
        [AS_RUN, *dict.fromkeys(name for one in choices for name in getattr(one, group))]
        for group in ("samplers", "spacings")
    )
    guidance = {name for one in choices for name in one.guidance}
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            inputs.add_box("seed", "seed", settings.seed, elem_id="seed")
            inputs.add_box("first_number", "picture number", 0, elem_id="number")
            inputs.add_box("steps", "steps", elem_id="steps", placeholder=str(settings.steps))
        with gr.Row():
            inputs.add("sampler", gr.Dropdown(samplers, value=AS_RUN, label="sampler", min_width=110, elem_id="sampler"))
            inputs.add("spacing", gr.Dropdown(spacings, value=AS_RUN, label="spacing", min_width=110, elem_id="spacing"))
            weights = [*dict.fromkeys([*WEIGHTS, settings.weights])]
            inputs.add("weights", gr.Dropdown(weights, value=settings.weights, label="weights", min_width=110))
        with gr.Row():
            if "scale" in guidance:
                inputs.add_box(
                    "guidance.scale", "guidance scale", elem_id="guidance", placeholder=read_guidance(settings, "scale")
                )
            if "rescale" in guidance:
                inputs.add_box("guidance.rescale", "rescale", placeholder=read_guidance(settings, "rescale"))
            if "interval" in guidance:
                inputs.add_box("low", "guide from noise level", placeholder="0")
                inputs.add_box("high", "to noise level", placeholder="all")
        with gr.Row():
            unit, (height, width) = choices[0].size_unit, choices[0].size
            for name, side in (("height", height), ("width", width)):
                inputs.add_box(name, f"{name}, multiples of {unit}", placeholder=str(side))
        if (upscaler := playground.settings.upscaler) is not None:
            inputs.add("enlarge", gr.Checkbox(label=f"enlarge with {upscaler}", elem_id="enlarge"))
        if any(one.attention for one in choices):
            inputs.add("attention", gr.Checkbox(label="show which words drew what", elem_id="attention"))


def read_guidance(settings: SampleSettings, name: str) -> str:
    """Return a setting of the run's guidance, for an empty box."""
    return "" if settings.guidance is None else str(settings.guidance.get(name))


def place_picture(inputs: PageInputs) -> None:
    """Place what a drawing may start from."""
    with gr.Accordion("Start from a picture", open=False, elem_id="start"):
        gr.HTML(
            render_upload(
                "picture", "choose a picture; paint on it what to draw anew, or nothing to change all of it", paints=True
            ),
            js_on_load=None,
        )
        slider = gr.Slider(0, 1, value=1.0, step=0.01, label="strength: how much of it may change", elem_id="strength")
        inputs.add("strength", slider)
