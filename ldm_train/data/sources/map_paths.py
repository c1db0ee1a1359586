"""Where the maps of a folder's pictures are: templates of paths with the parts of a picture's path."""

import posixpath
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldm_train.data.sources.items import PictureFile

PLACEHOLDERS = {
    "stem": "the picture's file name without suffix",
    "name": "its file name",
    "number": "the last digits of its file name",
    "folder": "its folder, as seen from source.path",
}
DIGITS = re.compile(r"[0-9]+")


class MapPaths:
    """Paths of maps relative to the source's folder, with placeholders for the parts of a picture's path.

    Args:
        templates: by the maps' names, such as {"depth": "depth/{stem}.png"}.
        root: the source's folder.

    Raises:
        ValueError: a template has an unknown placeholder, or none, so that all pictures would have the same map.
    """

    def __init__(self, templates: Mapping[str, str], root: Path) -> None:
        self.templates = templates
        self.root = root
        for name, template in templates.items():
            _check_template(f"source.maps.{name}={template}", template)

    def find(self, key: str) -> dict[str, PictureFile]:
        """Return the files of a picture's maps by their names, whether they exist or not."""
        return {name: PictureFile(self.root / path) for name, path in self.paths(key).items()}

    def paths(self, key: str) -> dict[str, str]:
        """Return the paths of a picture's maps relative to the source's folder, by their names."""
        folder, name = posixpath.split(key)
        stem = posixpath.splitext(name)[0]
        numbers = DIGITS.findall(stem)
        parts = {"stem": stem, "name": name, "folder": folder or ".", "number": numbers[-1] if numbers else ""}
        return {map_name: posixpath.normpath(path.format(**parts)) for map_name, path in self.templates.items()}

    def separate(self, keys: Sequence[str]) -> tuple[list[str], set[str]]:
        """Return the pictures that are not maps, and the paths of all maps.

        Raises:
            ValueError: nothing is left.
        """
        maps = {path for key in keys for path in self.paths(key).values()}
        pictures = [key for key in keys if key not in maps]
        if keys and not pictures:
            templates = ", ".join(f"{name}: {template}" for name, template in self.templates.items())
            raise ValueError(f"source.maps={{{templates}}}: every picture in {self.root} would be a map of a picture")
        return pictures, maps

    def notes(self, pictures: Sequence[str]) -> Iterator[str]:
        """Yield where the maps of the first picture are."""
        for name, path in self.paths(pictures[0]).items() if pictures else ():
            yield f"map {name} of {pictures[0]}: {path}"


def _check_template(given: str, template: str) -> None:
    accepted = ", ".join(f"{{{name}}} ({meaning})" for name, meaning in PLACEHOLDERS.items())
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{given} has an unmatched brace ({error}); accepted are {accepted}") from error
    used = [
        f"{name}{'!' + way if way else ''}{':' + form if form else ''}" for _, name, form, way in parts if name is not None
    ]
    if unknown := next((name for name in used if name not in PLACEHOLDERS), None):
        raise ValueError(f"{given} has the unknown placeholder {{{unknown}}}; accepted are {accepted}")
    if not {"stem", "name", "number"} & set(used):
        raise ValueError(f"{given} would be one file for many pictures; write {{stem}}, {{name}} or {{number}} in it")
