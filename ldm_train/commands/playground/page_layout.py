"""The page: inputs on the left, pictures on the right, one below the other on a phone."""

from collections.abc import Callable
from importlib.resources import files

import gradio as gr
from gradio.components import Component

from ldm_train.commands.playground.page_events import PageEvents
from ldm_train.commands.playground.page_inputs import PageInputs, build_inputs, number_box
from ldm_train.commands.playground.playground import Playground
from ldm_train.commands.playground.requested_settings import MOST_BETWEEN, WEIGHTS
from ldm_train.commands.playground.result_html import NO_HISTORY, NOTHING, escape

TITLE = "ldm-train playground"
QUEUE = "drawing"  # all drawings wait in one queue: a machine draws one after the other
HEAD = '<link rel="icon" href="data:,"><script src="playground.js"></script>'
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing from the network
CLICK = (
    "element.addEventListener('click', (event) => { const button = event.target.closest('[data-entry]'); "
    "if (button) trigger('click', {entry: Number(button.dataset.entry)}); });"
)
LOOK = 5.0  # seconds between two looks at the step, with follow=true


def read_asset(name: str) -> str:
    """Return a file that is installed with this package."""
    return files("ldm_train.commands.playground").joinpath(name).read_text(encoding="utf-8")


def build_theme() -> gr.Theme:
    """Return how the page looks."""
    return gr.themes.Default(font=FONTS["font"], font_mono=FONTS["font_mono"])


def describe_runs(playground: Playground) -> str:
    """Return the runs of a page with the steps of their weights."""
    lines = [f"{escape(run)}, step <b>{step:,}</b>" for run, step in playground.steps.items()]
    return f'<p class="runs">{" · ".join(lines)}</p>'


def build_page(playground: Playground) -> gr.Blocks:
    """Return the page of a playground."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(f"<h1>{TITLE}</h1>", js_on_load=None)
        header = gr.HTML(describe_runs(playground), js_on_load=None, elem_id="runs")
        with gr.Row():
            with gr.Column(min_width=320):
                inputs, place = build_inputs(playground)
                with gr.Row():
                    buttons = [gr.Button("Draw", variant="primary", elem_id="draw", min_width=90)]
                    buttons.append(gr.Button("Draw four", elem_id="four", min_width=90))
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=90)
                place()
            with gr.Column(min_width=320):
                result = gr.HTML(NOTHING, js_on_load=None, elem_id="result", min_height=120)
                with gr.Accordion("Compare with other settings, from the same noise", open=False, elem_id="comparing"):
                    others = place_others(playground)
                    compare = gr.Button("Compare", elem_id="compare")
                with gr.Accordion("History of this session", open=True):
                    gr.HTML("<p class='hint'>A click shows a picture again and restores its settings.</p>", js_on_load=None)
                    history = gr.HTML(NO_HISTORY, js_on_load=CLICK, elem_id="history")
                ends, interpolate = place_ends()
        events = PageEvents(playground, inputs)
        outputs = [result, history, *ends[:2]]
        drawing = [
            listen(buttons[0], events.draw_one, inputs, [], outputs),
            listen(buttons[1], events.draw_four, inputs, [], outputs),
            listen(compare, events.compare, inputs, others, outputs),
        ]
        drawing.append(
            interpolate.click(
                events.interpolate,
                ends,
                outputs,
                concurrency_limit=1,
                concurrency_id=QUEUE,
                show_progress_on=result,
                api_visibility="private",
            )
        )
        prompt = inputs.components["prompt"]
        if isinstance(prompt, gr.Textbox):
            drawing.append(listen(prompt, events.draw_one, inputs, [], outputs, event="submit"))
        cancel.click(events.cancel, None, result, cancels=drawing, concurrency_limit=None, api_visibility="private")
        restored = history.click(
            events.restore, None, [result, *inputs.all], api_visibility="private", show_progress="hidden"
        )
        boxes = [inputs.components[name] for name in ("picture", "mask", "maps")]
        restored.then(None, boxes, None, js="(...values) => playground.show(...values)", api_visibility="private")
        page.unload(events.leave)
        gr.api(events.draw_by_api, api_name="draw", concurrency_limit=1, concurrency_id=QUEUE)
        if playground.settings.follow:
            timer = gr.Timer(LOOK)
            timer.tick(lambda: describe_runs(playground), None, header, show_progress="hidden", api_visibility="private")
    page.queue(default_concurrency_limit=1)
    return page


def listen(
    source: Component,
    draw: Callable[..., object],
    inputs: PageInputs,
    more: list[Component],
    outputs: list[Component],
    *,
    event: str = "click",
) -> object:
    """Let a button draw. The page's script adds the files, and sends the mask that was painted, first."""
    given = [*inputs.all, *more]
    return getattr(source, event)(
        draw,
        given,
        outputs,
        js=f"(...values) => playground.collect(values.slice(0, {len(given)}))",
        concurrency_limit=1,
        concurrency_id=QUEUE,
        show_progress_on=outputs[0],
        api_visibility="private",
    )


def place_others(playground: Playground) -> list[Component]:
    """Place the settings that a comparison changes."""
    runs, choices = [*playground.studios], [*playground.choices.values()]
    samplers = [*dict.fromkeys(name for one in choices for name in one.samplers)]
    with gr.Row():
        listed: list[Component] = [
            gr.Dropdown(
                ["same", *runs], value="same", label="run", visible=len(runs) > 1, min_width=110, elem_id="other-run"
            ),
            gr.Dropdown(["same", *WEIGHTS], value="same", label="weights", min_width=110),
            gr.Dropdown(["same", *samplers], value="same", label="sampler", min_width=110),
            number_box("steps", elem_id="other-steps"),
            number_box("guidance scale", elem_id="other-guidance"),
        ]
    return listed


def place_ends() -> tuple[list[Component], gr.Button]:
    """Place the two pictures to interpolate between, the number of pictures, and the button."""
    with gr.Accordion("Interpolate between two pictures", open=False, elem_id="interpolating"):
        with gr.Row():
            first = gr.Dropdown([], label="from", min_width=110, elem_id="from")
            last = gr.Dropdown([], label="to", min_width=110, elem_id="to")
        count = gr.Slider(2, MOST_BETWEEN, value=5, step=1, label="pictures, both ends included")
        button = gr.Button("Interpolate", elem_id="interpolate")
    return [first, last, count], button
