"""Pages of all settings, as Markdown: one a command, from its typed settings, and one a group, from conf/."""

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.utils import get_object

from ldm_train.settings.commented_yaml import SettingsFile, parse_settings
from ldm_train.settings.help_text import describe_default, option_kind, read_comments, trainer_help
from ldm_train.settings.schema.commands import CONTINUED, SCHEMAS, may_change, own_settings
from ldm_train.settings.schema.kinds import Section, describe
from ldm_train.settings.schema.options import list_part_groups
from manual.measured import make_table

CONF = Path(__file__).parent.parent.parent / "conf"


def list_groups() -> dict[str, list[Path]]:
    """Return the YAML files of each group of options."""
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in sorted(CONF.iterdir()) if any(folder.glob("*.yaml"))}


def list_commands() -> list[str]:
    return sorted(path.stem for path in CONF.glob("*.yaml"))


def escape(text: str) -> str:
    """Return text that a table's cell shows as it is."""
    return re.sub(r"([|*_<>\[\]])", r"\\\1", text)


def make_row(verb: str, name: str, default: str, kind: str, meaning: str) -> list[str]:
    """Return a setting's row: its name, default, what it takes, its meaning, and whether a continued run may change it."""
    continued = "yes" if may_change(verb, name) else ""
    return [f"`{name}`", f"`{default}`" if default else "", escape(kind), escape(meaning), continued]


def format_settings(rows: Sequence[Sequence[str]], *, continued: bool) -> str:
    """Return the table of settings, with a column of what a continued run may change if `continued`."""
    header = ["setting", "default", "takes", "meaning", "continued run may change it"]
    columns = len(header) if continued else len(header) - 1
    return make_table(header[:columns], [list(row[:columns]) for row in rows]) if rows else "No settings."


def list_own_rows(command: str) -> list[list[str]]:
    """Return the rows of a command's own settings; a section has its meaning only."""
    rows = []
    for name, info in own_settings(command).items():
        if isinstance(info.default, Section):
            rows.append([f"`{name}`", "", "", escape(inspect.getdoc(type(info.default)) or ""), ""])
        else:
            kind = describe(info.annotation, info.metadata)
            rows.append(make_row(command, name, describe_default(info), kind, info.description or ""))
    return rows


def list_option_rows(group: str, option: SettingsFile, docstring: str) -> list[list[str]]:
    """Return the rows of an option's settings; one without a comment has what the constructor's docstring says of it."""
    arguments = read_arguments(docstring)
    rows = []
    for each in (each for each in option.settings if each.default or each.comment):
        kind = describe(*option_kind(group, each.name, option.target))
        meaning = each.comment or arguments.get(each.name, "") or trainer_help(group, each.name)
        rows.append([f"`{each.name}`", *make_row("train", f"{group}.{each.name}", each.default, kind, meaning)[1:]])
    return rows


def format_header(header: Sequence[str]) -> str:
    """Return a file's first comment: sentences as a paragraph, indented command lines as a block of code."""
    parts: list[tuple[bool, list[str]]] = []
    for line in header:
        is_code = line.startswith("  ")
        if parts and parts[-1][0] == is_code:
            parts[-1][1].append(line.strip() if is_code else line)
        else:
            parts.append((is_code, [line.strip() if is_code else line]))
    return "\n\n".join(
        "```bash\n" + "\n".join(lines) + "\n```" if code else escape(" ".join(lines)) for code, lines in parts
    )


def make_command_page(command: str) -> str:
    """Return the page of one command's settings."""
    page = read_comments(command)
    rows = [
        [
            f"[`{each.name.removeprefix('optional ')}`](../groups/{each.name.removeprefix('optional ')}.md)",
            f"`{each.default}`",
            escape(each.comment),
        ]
        for each in page.choices
    ]
    groups = (
        f"\n\n## Groups\n\nChoose an option with `GROUP=OPTION`.\n\n{make_table(['group', 'default', 'meaning'], rows)}"
        if rows
        else ""
    )
    return (
        f"# {command}\n\n{format_header(page.header)}\n\n## Settings\n\n"
        "`???` must be given; `null` means none, or what the meaning says.\n\n"
        f"{format_settings(list_own_rows(command), continued=command in CONTINUED)}{groups}\n"
    )


def read_docstring(target: str | None) -> str:
    """Return the docstring of a class or function of this package, "" for other packages."""
    return inspect.getdoc(get_object(target)) or "" if target is not None and target.startswith("ldm_train.") else ""


def read_arguments(docstring: str) -> dict[str, str]:
    """Return what the section "Args:" of a docstring says of each argument."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): ((?:.*\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def make_group_page(group: str, files: Sequence[Path]) -> str:
    """Return the page of one group's options with their settings."""
    sections = [
        f"# {group}",
        f"Options of `{group}=`, and the settings `{group}.NAME=` of each." if group != "experiment" else EXPERIMENTS,
    ]
    trained = list_part_groups(SCHEMAS["train"])
    for path in files:
        text = path.read_text(encoding="utf-8")
        if "@package _global_" in text:
            sections.append(f"## {group}={path.stem}\n\n```yaml\n{text}```")
            continue
        option = parse_settings(text)
        docstring = read_docstring(option.target)
        described = [format_header(option.header), escape(" ".join(docstring.split("\n\n")[0].split()))]
        built = [f"Builds `{option.target}`."] if option.target else []
        sections.append(
            "\n\n".join(
                [
                    f"## {group}={path.stem}",
                    *filter(None, described),
                    *built,
                    format_settings(list_option_rows(group, option, docstring), continued=group in trained),
                ]
            )
        )
    return "\n\n".join(sections) + "\n"


EXPERIMENTS = (
    "Each option is a set of settings that go together, as its file says. Settings on the command line win over it."
)


def make_pages() -> Iterator[tuple[str, str]]:
    """Yield the path (relative to docs/) and the content of every page of settings."""
    for command in list_commands():
        yield f"reference/commands/{command}.md", make_command_page(command)
    for group, files in list_groups().items():
        yield f"reference/groups/{group}.md", make_group_page(group, files)
