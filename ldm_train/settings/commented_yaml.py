"""Parse a YAML file of settings together with its comments, which say what each setting means."""

import re
from dataclasses import dataclass, field

import yaml

LINE = re.compile(r"(?P<indent> *)(?P<dash>- )?(?P<key>[^\s:#][^:#]*):(?: (?P<rest>.*))?$")

ENTRY = re.compile(r" *- \w+ *(#.*)?$")  # of a defaults list: another file's settings, or these


@dataclass(frozen=True)
class Setting:
    """A setting's dotted name, its default as it is written in YAML ("" for a mapping), and its comment."""

    name: str
    default: str
    comment: str


@dataclass
class SettingsFile:
    """What a YAML file of settings says.

    Args:
        header: the comment lines at the top, without "# ".
        target: what `_target_` names, None if nothing does.
        choices: the default option of each group in `defaults`.
        settings: the settings in order.
    """

    header: list[str] = field(default_factory=list)
    target: str | None = None
    choices: list[Setting] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)


def split_comment(text: str) -> tuple[str, str]:
    """Return a YAML value and the comment after it, as the YAML scanner separates them."""
    tokens = [token for token in yaml.scan(text) if token.end_mark.index > token.start_mark.index]
    end = max((token.end_mark.index for token in tokens), default=0)
    return text[:end].strip(), text[end:].strip().removeprefix("#").strip()


def parse_settings(text: str) -> SettingsFile:
    """Parse a YAML file of settings together with its comments.

    Raises:
        ValueError: a line is neither a comment nor a setting.
    """
    found, parents = SettingsFile(), list[str]()
    for line in text.splitlines():
        if line.startswith("#") and not found.settings and not found.choices and found.target is None:
            found.header.append(line.removeprefix("#").removeprefix(" "))
        elif line.strip() and not line.lstrip().startswith("#") and not ENTRY.match(line):
            match = LINE.match(line)
            if match is None:
                raise ValueError(f"{line!r} is no setting")
            value, comment = split_comment(match["rest"] or "")
            depth = len(match["indent"]) // 2
            parents = [*parents[:depth], match["key"]]
            if match["dash"]:
                found.choices.append(Setting(match["key"], value, comment))
            elif match["key"] == "_target_":
                found.target = value
            elif not match["key"].startswith("_") and line.strip() != "defaults:":
                found.settings.append(Setting(".".join(parents), value, comment))
    return found
