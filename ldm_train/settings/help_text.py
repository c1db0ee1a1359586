"""The help of a command, `ldm-train VERB --help`, and of the options that its words choose."""

import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from ldm_train.settings.commented_yaml import Setting, SettingsFile, parse_settings
from ldm_train.settings.config_file import text
from ldm_train.settings.schema.commands import CONTINUED, SCHEMAS, argument_kind, may_change, own_settings
from ldm_train.settings.schema.kinds import Section, describe
from ldm_train.settings.schema.options import TrainerSettings, list_part_groups
from ldm_train.settings.shipped import groups, option_file, refuse_unknown_options
from ldm_train.settings.strict import TRAINER

WIDTH, COLUMN = 110, 34  # characters of a line, and where explanations begin
FORMS = """\
Also on the command line:
  config=FILE.yaml    settings from a file, before the words: `max_steps: 500`, `optimizer: {lr: 1.0e-3}`, or options of
                      groups, `schedule: cosine`; a run's config.yaml is one
  config_path=DIR     own options and experiments by name: DIR/network/mine.yaml is the option mine
  trust=PACKAGE       or [A,B], or `.` for all code in the current folder: settings may name its classes and functions
                      in `_target_`; the code then runs with your rights. A file cannot grant this
  --print-config      print the settings that these words make, as YAML, and do nothing else
  --multirun          every combination of several values, `seed=0,1 optimizer.lr=1e-3,1e-4`, one after the other, each
                      in a directory of its own; with --dry-run, print their commands instead. hydra/launcher=joblib or
                      submitit_slurm runs several at once; hydra/sweeper=optuna chooses the values, of lists and of
                      interval(A,B), that make objective=validation_loss best
"""


def describe_command(verb: str, words: list[str]) -> str:
    """Return a command's help: its settings, its groups with their options, and the settings of the options in `words`.

    Raises:
        ConfigError: one of the words chooses an option that there is not.
    """
    page = read_comments(verb)
    choices = [word.partition("=")[::2] for word in words if word.partition("=")[0] in list_groups(verb)]
    refuse_unknown_options(verb, [f"{group}={option}" for group, option in choices])
    star = "; *: a continued run may change it" if verb in CONTINUED else ""
    lines = [*_wrap_header(page.header), "", f"Settings (???: must be given{star}):"]
    for name, info in own_settings(verb).items():
        lines += _describe_own(verb, name, info)
    lines += ["", FORMS]
    if page.choices:
        lines.append(f"Groups (`ldm-train {verb} GROUP=OPTION --help` shows the settings of an option):")
    for choice in page.choices:
        lines += _describe_group(choice)
    for group, option in choices:
        if option != "null":
            lines += ["", f"Settings of {group}={option}:", *_describe_option(verb, group, option)]
    return "\n".join(lines)


def read_comments(name: str) -> SettingsFile:
    """Return what a shipped YAML file, such as "train" or "network/unet_small", says of its settings."""
    return parse_settings(option_file(name).read_text(encoding="utf-8"))


def list_groups(verb: str) -> list[str]:
    """Return the groups that a command line may choose an option of, also those that set what others read."""
    return [choice.name.removeprefix("optional ") for choice in read_comments(verb).choices]


def describe_default(info: FieldInfo) -> str:
    """Return the default of a setting as the command line takes it; ??? if it must be given."""
    if info.is_required():
        return "???"
    return info.default if isinstance(info.default, str) and info.default else text(info.default)


def option_kind(group: str, name: str, target: str | None) -> tuple[Any, list[object]]:
    """Return the kind of a setting of an option, and its annotations."""
    if group == "trainer" and (info := TrainerSettings.model_fields.get(name)) is not None:
        return info.annotation, info.metadata
    return argument_kind(group, name, TRAINER if group == "trainer" else target or ""), []


def _wrap_header(header: list[str]) -> Iterator[str]:
    for is_command, group in itertools.groupby(header, lambda line: line.startswith("  ")):
        lines = list(group)
        yield from lines if is_command else textwrap.wrap(" ".join(lines), WIDTH)


def _describe_own(verb: str, name: str, info: FieldInfo) -> Iterator[str]:
    if isinstance(info.default, Section):
        yield from _columns(f"  {name}:", inspect.getdoc(type(info.default)) or "")
        return
    indent = "    " if "." in name else "  "
    kind = describe(info.annotation, info.metadata)
    yield from _columns(f"{indent}{name}={describe_default(info)}{_star(verb, name)}", f"{info.description or ''} ({kind})")


def _describe_group(choice: Setting) -> Iterator[str]:
    name = choice.name.removeprefix("optional ")
    comment = [choice.comment] if choice.comment else []
    yield from _columns(f"  {name}={choice.default}", *comment, f"options: {', '.join(groups()[name])}")


def _describe_option(verb: str, group: str, option: str) -> Iterator[str]:
    page = read_comments(f"{group}/{option}")
    sets_others = group not in list_part_groups(SCHEMAS[verb])
    defaults = {} if sets_others else {each.name: each.default for each in read_comments(verb).settings}
    for choice in page.choices:
        yield f"  {choice.name.split()[-1].lstrip('/')}={choice.default}"
    for setting in page.settings:
        if setting.default or setting.comment:
            name = setting.name if sets_others else f"{group}.{setting.name}"
            kind = "" if sets_others else f"({describe(*option_kind(group, setting.name, page.target))})"
            explanation = f"{setting.comment or trainer_help(group, setting.name)} {kind}".strip()
            default = defaults.get(name, setting.default)
            yield from _columns(f"  {name}={default}{_star(verb, name)}", explanation)
    if page.target:
        yield f"  These are what {page.target} takes."


def _star(verb: str, name: str) -> str:
    return " *" if verb in CONTINUED and may_change(verb, name) else ""


def trainer_help(group: str, name: str) -> str:
    """Return the help of a setting of the group `trainer`; "" for other groups."""
    info = TrainerSettings.model_fields.get(name) if group == "trainer" else None
    return "" if info is None else info.description or ""


def _columns(left: str, *paragraphs: str) -> Iterator[str]:
    """Yield lines with the paragraphs in a column of their own, each wrapped."""
    lines = [line for text in paragraphs for line in textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False)]
    if len(left) < COLUMN and lines:
        left = f"{left:<{COLUMN}}{lines.pop(0)}"
    yield left
    yield from (f"{'':{COLUMN}}{line}" for line in lines)
