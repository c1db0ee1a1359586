"""Take how pictures are drawn from the run itself, where a command line gives a group's settings and not its option."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.config_file import nearest_option, text
from ldm_train.settings.schema.options import OWN_KEYS, TARGET
from ldm_train.settings.schema.typed_values import expand_home, unquote
from ldm_train.settings.shipped import ConfigError, groups_of, key_of, read, shipped
from ldm_train.settings.trust import current_grants

DRAWING_GROUPS = ("sampler", "spacing", "guidance")


def words_of_run(verb: str, words: Sequence[str]) -> list[str]:
    """Return words that choose the run's own option of each group of which only settings are given: `guidance.scale=4`.

    Where the run's config cannot be read, they choose what `train` has by default.
    """
    keys = [key_of(word) for word in words]
    open_groups = [group for group in DRAWING_GROUPS if groups_of(verb).get(group) and group not in keys]
    needed = [group for group in open_groups if any(key.startswith(f"{group}.") for key in keys)]
    if not needed:
        return []
    paths = [word.partition("=")[2] for word in words if key_of(word) == "run_dir"]
    run = read_run_config(expand_home(unquote(paths[-1]))) if paths else {}
    return [word for group in needed for word in choose_option(group, run.get(group)) or [default_option(group)]]


def default_option(group: str) -> str:
    """Return the word for the option that `train` has by default."""
    entries = [entry for entry in shipped("train").defaults if not isinstance(entry, str) and group in entry]
    return f"{group}={entries[0][group]}"


def read_run_config(run_dir: str) -> dict[str, object]:
    """Return the settings that a run directory holds; {} if they cannot be read, which its command reports."""
    path = Path(run_dir) / "config.yaml"
    try:
        plain = OmegaConf.to_container(read(path)) if path.is_file() else {}
    except (ConfigError, OmegaConfBaseException):
        return {}
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def choose_option(group: str, node: object) -> list[str]:
    """Return the words that make a group's settings: an option, or the name of trusted code, and all that it is given."""
    if not isinstance(node, dict) or TARGET not in node:
        return []
    given = {name: value for name, value in node.items() if name not in OWN_KEYS}
    option = nearest_option(group, node)
    if option is None:
        if not current_grants().cover(str(node[TARGET])):
            return []
        given = {TARGET: node[TARGET]} | given
    return [
        *([] if option is None else [f"{group}={option}"]),
        *(f"++{group}.{name}={text(value)}" for name, value in given.items()),
    ]
