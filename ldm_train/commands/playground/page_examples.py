"""Prompts to try: a few captions that a run was trained on."""

import gradio as gr

from ldm_train.data.cache.reader import open_caches
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import collecting_messages

FEW = 4
LONGEST = 150  # letters
MOST_CAPTIONS = 100_000  # of a cache that is read for them


def list_examples(config: TrainSettings) -> list[str]:
    """Return a few captions of a run's caches, from all over them; none if they cannot be read at once."""
    if config.cache is None:
        return []
    try:
        with collecting_messages():
            caches = [cache for cache in open_caches(config.cache) if cache.manifest.captions <= MOST_CAPTIONS]
            texts = [text for cache in caches for text in cache.caption_texts if 0 < len(text) <= LONGEST]
    except (ValueError, OSError):
        return []
    return texts[:: max(1, -(-len(texts) // FEW))]


def place_examples(examples: list[str], prompt: gr.Textbox) -> None:
    """Place prompts of which a click fills in one."""
    shown = gr.Dataset(
        label="captions of the run, to begin with",
        components=[gr.Textbox(render=False)],
        samples=[[text] for text in examples],
        elem_id="examples",
    )
    shown.click(lambda sample: sample[0], shown, prompt, show_progress="hidden", api_visibility="private")
