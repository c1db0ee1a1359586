"""Captions from a template with parts of the picture's path."""

import posixpath
import string
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ldm_train.data.sources.annotations import Annotation, annotate_from_captions
from ldm_train.data.sources.items import format_name

PLACEHOLDERS = {
    "folder": "the picture's folder",
    "top": "the first folder of its path",
    "file": "its file name without suffix, with blanks for underscores",
}


def read_words(name: str) -> str:
    """Return a name as words, with blanks for underscores and for the %20 of addresses."""
    decoded = unquote(name)
    return (name if "\ufffd" in decoded or "\0" in decoded else decoded).replace("_", " ").strip()


class CaptionTemplate:
    """A text with placeholders for the parts of a path.

    Args:
        template: such as "a photo of a {top}".
        root: the source's folder, which is the `{folder}` of pictures that are not in a subfolder.

    Raises:
        ValueError: the template is empty, or has an unknown placeholder.
    """

    def __init__(self, template: str, root: Path) -> None:
        accepted = ", ".join(f"{{{name}}} ({meaning})" for name, meaning in PLACEHOLDERS.items())
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(
                f"source.template={template!r} has an unmatched brace ({error}); accepted are {accepted}"
            ) from error
        used = [
            f"{name}{'!' + way if way else ''}{':' + form if form else ''}"
            for _, name, form, way in parts
            if name is not None
        ]
        unknown = [name for name in used if name not in PLACEHOLDERS]
        if unknown or not template.strip():
            wrong = f"has the unknown placeholder {{{unknown[0]}}}" if unknown else "is empty"
            raise ValueError(f"source.template={template!r} {wrong}; accepted are {accepted}, and text around them")
        self.template = template
        self.needs_top = "top" in used
        self.root_name = root.resolve().name

    def annotate(self, key: str) -> Annotation:
        origin = format_name(key)
        folder, name = posixpath.split(key)
        if self.needs_top and not folder:
            where = "the picture is in the source's folder, not in a folder of its class"
            return Annotation(origin, problem=f"no caption: {{top}} of {self.template!r} is empty: {where}")
        caption = self.template.format(
            folder=posixpath.basename(folder) or self.root_name,
            top=folder.partition("/")[0],
            file=read_words(posixpath.splitext(name)[0]),
        ).strip()
        return annotate_from_captions((caption,), origin=origin)

    def notes(self, pictures: list[str]) -> Iterator[str]:
        yield f"captions from the paths, as {self.template!r}"
