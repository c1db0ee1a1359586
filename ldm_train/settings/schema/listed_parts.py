"""Options that an option lists, such as the text encoders of `text_encoder=several`."""

from collections.abc import Callable, Iterator

from ldm_train.settings.schema.options import PART_LISTS, Part, read_part


def list_members(group: str, part: Part) -> dict[str, list[Part]]:
    """Return the options that a part lists, by the argument that is the list."""
    found = {}
    for setting, inner in PART_LISTS.items():
        owner, _, name = setting.rpartition(".")
        if owner == group and isinstance(items := part.get(name), list):
            read = [read_part(inner, item) for item in items]
            found[name] = [item for item in read if isinstance(item, Part)]
    return found


def iterate_parts(group: str, part: Part) -> Iterator[Part]:
    """Yield a part, or instead of it the options that it lists."""
    members = [member for items in list_members(group, part).values() for member in items]
    for member in members:
        yield from iterate_parts(group, member)
    if not members:
        yield part


def change_argument(group: str, part: Part, name: str, change: Callable[[str], str]) -> Part:
    """Return a part in which an argument that is a text, also of the options that it lists, is another one."""
    value, values = part.get(name), dict[str, object]()
    if isinstance(value, str):
        values[name] = change(value)
    for argument, items in list_members(group, part).items():
        values[argument] = [change_argument(group, item, name, change).as_plain() for item in items]
    return part.with_values(**values) if values else part
