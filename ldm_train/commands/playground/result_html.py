"""The parts of the page that Python writes: pictures, history, tokens and messages. Every text in them is escaped."""

import base64
import html
from collections.abc import Sequence

from torch import Tensor

from ldm_train.commands.playground.page_tokens import PromptTokens
from ldm_train.commands.playground.sessions import HistoryEntry
from ldm_train.data.pictures.images import encode_png
from ldm_train.util.messages import Caution
from ldm_train.util.text import shorten

NOTHING = '<p class="empty">What you draw appears here.</p>'
NO_HISTORY = '<p class="empty">The pictures of this session will be listed here.</p>'


def escape(text: object) -> str:
    """Return a text as HTML that shows it; also the signs that gradio's templates would read."""
    return html.escape(str(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def embed_image(image: Tensor) -> str:
    """Return a uint8 image (3, H, W) as an address that has the picture in itself."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def render_preview(image: Tensor, step: int, steps: int, of: str = "") -> str:
    """Return the picture that is expected after a step."""
    return (
        f'<figure class="drawn"><img src="{embed_image(image)}" alt="preview">'
        f'<figcaption role="status">{escape(of)}step {step} of {steps}</figcaption></figure>'
    )


def render_message(text: str, kind: str = "problem") -> str:
    """Return a message."""
    return f'<p class="{escape(kind)}" role="alert">{escape(text)}</p>'


def render_picture(entry: HistoryEntry, label: str = "") -> str:
    """Return a picture with its number, seconds and links."""
    address = f"pictures/{escape(entry.path)}"
    caption = f"{label + ': ' if label else ''}picture {entry.number}, step {entry.step:,}, {entry.seconds:.2f} s"
    return (
        f'<figure class="drawn"><img src="{address}" alt="{escape(shorten(entry.prompt, 200))}">'
        f'<figcaption>{escape(caption)} · <a href="{address}?download" download>download</a></figcaption></figure>'
    )


def render_result(entry: HistoryEntry, tokens: PromptTokens | None) -> str:
    """Return a picture with all that is known about it."""
    parts = [render_picture(entry), *map(render_note, entry.messages)]
    if tokens is not None:
        parts.append(render_tokens(tokens))
    if entry.attention is not None:
        address = f"pictures/{escape(entry.attention)}"
        parts.append(
            "<details open><summary>Where the network attended to each word</summary>"
            f'<a href="{address}"><img class="attention" src="{address}" alt="attention to each word"></a></details>'
        )
    parts.append(render_command(entry))
    return "".join(parts)


def render_note(message: str) -> str:
    """Return a note or a warning of a drawing."""
    return f'<p class="{"caution" if isinstance(message, Caution) else "note"}">{escape(message)}</p>'


def render_command(entry: HistoryEntry) -> str:
    """Return the command that draws a picture again."""
    return (
        "<details><summary>The command that draws the same picture</summary>"
        f'<pre class="command"><code>{escape(entry.command)}</code></pre></details>'
    )


def render_row(entries: Sequence[HistoryEntry], labels: Sequence[str] = ()) -> str:
    """Return pictures next to each other, with their commands."""
    names = [*labels, *[""] * (len(entries) - len(labels))]
    pictures = "".join(render_picture(entry, label) for entry, label in zip(entries, names, strict=True))
    notes = dict.fromkeys(render_note(message) for entry in entries for message in entry.messages)
    commands = dict.fromkeys(map(render_command, entries))
    return f'<div class="row">{pictures}</div>{"".join(notes)}{"".join(commands)}'


def render_tokens(tokens: PromptTokens) -> str:
    """Return the tokens of a prompt, with notes on those that are cut, and those that were never trained."""
    chips = "".join(
        f'<span class="token{"" if token.kept else " cut"}{" new" if token.learned is False else ""}" '
        f'title="token {token.number}">{escape(token.text)}</span>'
        for token in tokens.tokens
    )
    notes = "".join(map(render_note, tokens.list_notes()))
    count = f"{len(tokens.tokens)} token{'s' * (len(tokens.tokens) != 1)}"
    return f'<details open><summary>The prompt as {count}</summary><p class="tokens">{chips}</p></details>{notes}'


def render_history(entries: Sequence[HistoryEntry]) -> str:
    """Return the pictures of a session as buttons, the newest first."""
    if not entries:
        return NO_HISTORY
    buttons = "".join(
        f'<button type="button" data-entry="{entry.number}" title="{escape(shorten(entry.prompt, 100))}">'
        f'<img loading="lazy" src="pictures/{escape(entry.path)}" alt=""><span>{entry.number}</span></button>'
        for entry in reversed(entries)
    )
    return f'<div class="history" aria-label="restore a picture">{buttons}</div>'


def render_upload(slot: str, label: str, *, paints: bool = False) -> str:
    """Return a place to choose a file for, with a canvas to paint a mask on; the page's script does the rest."""
    brush = (
        '<div class="brush"><label>brush <input type="range" min="2" max="100" value="24"></label>'
        '<button type="button" class="clear">clear the mask</button></div>'
    )
    return (
        f'<div class="upload" data-slot="{escape(slot)}"><label class="choose">{escape(label)}'
        '<input type="file" accept="image/*"></label><p class="problem" role="alert" hidden></p>'
        f'<div class="chosen" hidden><div class="layers"><img alt="{escape(label)}">{"<canvas></canvas>" * paints}</div>'
        f'{brush * paints}<button type="button" class="remove">remove</button></div></div>'
    )
