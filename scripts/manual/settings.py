"""Pages of all settings, as Markdown: one a command and one a group, read from `ldm-train VERB --help` and from conf/."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.utils import get_object

from ldm_train.settings.commented_yaml import Setting, parse_settings
from manual.measured import make_table

CONF = Path(__file__).parent.parent.parent / "conf"


def list_groups() -> dict[str, list[Path]]:
    """Return the YAML files of each group of options."""
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in sorted(CONF.iterdir()) if any(folder.glob("*.yaml"))}


def list_commands() -> list[str]:
    return sorted(path.stem for path in CONF.glob("*.yaml"))


def read_help(command: str) -> str:
    """Return what `ldm-train COMMAND --help` prints."""
    words = [sys.executable, "-m", "ldm_train", command, "--help"]
    return subprocess.run(words, check=True, capture_output=True, text=True, cwd=CONF.parent).stdout


def escape(text: str) -> str:
    """Return text that a table's cell shows as it is."""
    return re.sub(r"([|*_<>\[\]])", r"\\\1", text)


def format_settings(settings: Sequence[Setting]) -> str:
    """Return the table of settings."""
    rows = [
        [f"`{each.name}`", f"`{each.default}`" if each.default else "", escape(each.comment)]
        for each in settings
        if each.default or each.comment
    ]
    return make_table(["setting", "default", "meaning"], rows) if rows else "No settings."


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
    text = read_help(command)
    page = parse_settings(text.partition("\nAlso on the command line:")[0])
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
        "`???` must be given; `null` means none, or what the comment says.\n\n"
        f"{format_settings(page.settings)}{groups}\n"
    )


def read_docstring(target: str | None) -> str:
    """Return the docstring of a class or function of this package, "" for other packages."""
    return inspect.getdoc(get_object(target)) or "" if target is not None and target.startswith("ldm_train.") else ""


def read_arguments(docstring: str) -> dict[str, str]:
    """Return what the section "Args:" of a docstring says of each argument."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): ((?:.*\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def add_arguments(settings: Sequence[Setting], docstring: str) -> list[Setting]:
    """Return the settings; those without a comment get what the docstring of their constructor says."""
    arguments = read_arguments(docstring)
    return [replace(each, comment=each.comment or arguments.get(each.name, "")) for each in settings]


def make_group_page(group: str, files: Sequence[Path]) -> str:
    """Return the page of one group's options with their settings."""
    sections = [
        f"# {group}",
        f"Options of `{group}=`, and the settings `{group}.NAME=` of each." if group != "experiment" else EXPERIMENTS,
    ]
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
                    format_settings(add_arguments(option.settings, docstring)),
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
