"""Suggest a setting for a name that a command does not know."""

from collections.abc import Iterable
from functools import cache

from ldm_train.settings.foreign_names import NAMES
from ldm_train.settings.schema.commands import SCHEMAS, own_settings
from ldm_train.settings.schema.options import TrainerSettings, list_part_groups
from ldm_train.settings.shipped import groups, shipped
from ldm_train.util.text import nearest


def suggest_setting(verb: str, name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown setting: what other programs mean by the name, or the nearest name.

    Args:
        known: the full names of settings that may be meant.
    """
    last = name.rpartition(".")[2]
    candidates = [ours for key in (name, last) for ours in NAMES.get(key.lower().replace("-", "_"), ())]
    options = {ours: option_with(verb, ours.partition("=")[0]) for ours in candidates if ours != name}
    for ours, option in sorted(options.items(), key=lambda pair: pair[1] != ""):  # first what needs no other option
        if option is not None:
            return f"; did you mean {ours!r}{f', with {option}' * bool(option)}?"
    return nearest(name, known)


@cache
def option_with(verb: str, setting: str) -> str | None:
    """Return the option that a setting of a group needs, "" if it needs none; None if the verb has no such setting."""
    group, _, key = setting.partition(".")
    of_verb = list_part_groups(SCHEMAS[verb])
    if setting in own_settings(verb) or setting in of_verb:
        return ""
    if group not in of_verb:
        return None
    if group == "trainer":
        return "" if key in TrainerSettings.model_fields else None
    entries = {
        str(name).split()[-1]: option
        for entry in shipped(verb).defaults
        if not isinstance(entry, str)
        for name, option in entry.items()
    }
    options = [option for option in groups()[group] if key in shipped(f"{group}/{option}").keys()]  # noqa: SIM118
    return None if not options else "" if entries.get(group) in options else f"{group}={options[0]}"
