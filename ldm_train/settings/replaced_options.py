"""`GROUP._target_=mypackage.Class`: own code replaces a shipped option, and gets only the settings that are given for it.

The replaced option's other settings are dropped: `channels` of a U-Net would mean something else to another network.
"""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from ldm_train.settings.constructors import LISTS, is_own
from ldm_train.settings.own_code import BOUND
from ldm_train.settings.schema.kinds import MISSING
from ldm_train.settings.schema.options import OWN_KEYS, PART_LISTS, TARGET
from ldm_train.settings.schema.typed_values import as_objects, unquote
from ldm_train.settings.shipped import ConfigError, groups, groups_of, key_of, shipped
from ldm_train.util.text import format_value, nearest

EXAMPLES = {"condition": "[size,{number:{column:age}}]", "text_encoder": "[clip_vit_l_14,{transformers:{weights:DIR}}]"}


def find_targets(verb: str, words: Sequence[str]) -> dict[str, str]:
    """Return the constructors that words name themselves, by their groups."""
    named = [(key_of(word), unquote(word.partition("=")[2])) for word in words if not word.startswith("~")]
    pairs = [(key.rpartition("."), value) for key, value in named]
    return {group: value for (group, _, key), value in pairs if key == TARGET and group in groups_of(verb)}


def find_replaced(verb: str, words: Sequence[str]) -> dict[str, set[str]]:
    """Return the groups whose option own code replaces, with the names of the settings that are given for it.

    Words name the code, or the experiment that they choose.
    """
    given: dict[str, set[str]] = {}
    for name in (word.partition("=")[2] for word in words if key_of(word) == "experiment"):
        nodes = shipped(f"experiment/{name}").items() if name in groups().get("experiment", ()) else ()
        for group, node in nodes:
            if isinstance(node, DictConfig) and TARGET in node and is_own(node[TARGET], str(group)):
                given[str(group)] = set(map(str, node))
    for group, target in find_targets(verb, words).items():
        given.pop(group, None)
        if is_own(target, group):
            given[group] = set()
    for group, _, key in (key_of(word).partition(".") for word in words):
        if group in given and key:
            given[group].add(key.partition(".")[0])
    return given


def allow_new_settings(words: Sequence[str], own: Mapping[str, object]) -> list[str]:
    """Return words of which those about own code also add settings that no option has, as Hydra's `++` does."""
    return [
        f"++{word}" if key_of(word).partition(".")[0] in own and "." in key_of(word) and word[0] not in "+~" else word
        for word in words
    ]


def name_metrics(words: Sequence[str]) -> list[str]:
    """Return words with `metrics=[…]`, a list where a section is, as its list of own metrics."""
    lists = [key_of(word) == "metrics" and word.partition("=")[2].startswith("[") for word in words]
    return [
        word.replace("metrics", "metrics.own", 1) if is_list else word for word, is_list in zip(words, lists, strict=True)
    ]


def drop_replaced(verb: str, config: DictConfig, replaced: Mapping[str, set[str]]) -> None:
    """Remove from a composed config what a replaced option set and nobody gave for the own code."""
    for group, given in replaced.items():
        node = config.get(group)
        kept = given | {*OWN_KEYS} | set(map(str, shipped(verb).get(group, {})))
        if isinstance(node, DictConfig):
            with open_dict(node):
                for key in [str(key) for key in node if str(key) not in kept]:
                    del node[key]


def complete_own(values: dict[str, object]) -> None:
    """Complete how a config names own code, in place.

    What gets further arguments from the run is only bound to those of the config; a name in a list is a class without any.
    """
    for name in LISTS:
        section, _, key = name.rpartition(".")
        place = values.get(section) if section else values
        if isinstance(place, dict) and key in place:
            place[key] = as_objects(place[key])
            if name in PART_LISTS and isinstance(place[key], list):
                place[key] = [expand_option(PART_LISTS[name], item) for item in place[key]]
    for group in BOUND:
        node = values.get(group)
        if isinstance(node, dict) and TARGET in node and is_own(node[TARGET], group):
            values[group] = {"_partial_": True, **node}


def expand_option(group: str, item: object) -> object:
    """Return the settings of an option that a list names, `size` or `{number: {column: age}}`; constructors as they are.

    Raises:
        ConfigError: it is no single option, no option of the group has this name, it has no such setting, or it lacks one.
    """
    if not isinstance(item, dict):
        return item
    target = item.get(TARGET)
    given = {str(target): {}} if set(item) == {TARGET} and "." not in str(target) else item
    name, settings = next(iter(given.items()), ("", None))
    if TARGET in given:
        return item
    if len(given) != 1 or not isinstance(settings, dict | None):
        raise ConfigError(
            f"{format_value(item)} is not accepted in a list of options of the group {group}; each entry is the name of one "
            f"option, or one name with its settings: {EXAMPLES[group]}"
        )
    if name not in groups()[group]:
        raise ConfigError(
            f"{group}={name} is no option; there are: {', '.join(groups()[group])}{nearest(name, groups()[group])}"
        )
    option = OmegaConf.to_container(shipped(f"{group}/{name}"))
    assert isinstance(option, dict)
    if unknown := sorted(map(str, (settings or {}).keys() - option.keys())):
        known = [str(key) for key in option if key not in OWN_KEYS]
        raise ConfigError(
            f"{group}={name} has no setting {unknown[0]!r}; it has {', '.join(known)}{nearest(unknown[0], known)}"
        )
    found = {**option, **(settings or {})}
    if lacking := next((key for key, value in found.items() if value == MISSING), None):
        raise ConfigError(f"{group}={name} needs {lacking}, as in {{{name}:{{{lacking}:…}}}}")
    return found
