"""Words that give a list a member by a name, which only its numbers are."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

from ldm_train.settings.schema.commands import kind_of
from ldm_train.settings.schema.kinds import describe
from ldm_train.settings.shipped import ConfigError, key_of


def refuse_list_members(
    verb: str, words: Sequence[str], chosen: DictConfig, targets: Mapping[str, str], error: Exception
) -> None:
    """Raise for the first word that names a member of a list, which OmegaConf failed at.

    Args:
        chosen: the command's config with the options that the words choose.
        targets: the constructor of each group.

    Raises:
        ConfigError: it names the list, and what it takes.
    """
    for key in map(key_of, words):
        steps = key.split(".")
        for count in range(1, len(steps)):
            name = ".".join(steps[:count])
            if isinstance(OmegaConf.select(chosen, name), ListConfig) and not steps[count].isdecimal():
                kind = kind_of(verb, name, dict(targets))
                accepted = f"; it takes {describe(*kind)}" if kind else ""
                raise ConfigError(
                    f"{key}: {name} is a list, and has no setting {'.'.join(steps[count:])}; give it as a whole{accepted}"
                ) from error
