"""Write the command line of `ldm-train sample` that draws one picture."""

import json
import re
import shlex

from ldm_train.assembly.prompt_options import OPTION, Prompt
from ldm_train.settings.config_file import shortest_words, text, write_mapping
from ldm_train.settings.quoting import quote
from ldm_train.settings.schema.commands import default_values, mappings_of
from ldm_train.settings.schema.options import list_part_groups
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.trust import TRUST, current_grants

PLAIN = re.compile(r"(?!null$)[\w./~:-]+( [\w./~:-]+)*")  # what a command line reads as it is written


def write_sample_command(settings: SampleSettings, *prompts: Prompt) -> str:
    """Return the command line that draws prompts by these settings, quoted for a shell."""
    defaults, parts = default_values("sample"), settings.as_plain()
    words = []
    for name, value in parts.items():
        if name in list_part_groups(SampleSettings):
            words += shortest_words(name, value)
        elif name not in ("prompts", "debug", "out", "x", "y") and value != defaults[name]:
            words += [shlex.quote(word) for word in write_words(name, value)]
    trusted = current_grants().packages
    words += [shlex.quote(f"{TRUST}=[{','.join(trusted)}]")] if trusted else []
    words += [shlex.quote(f"prompts=[{','.join(map(write_prompt, prompts))}]"), *write_out(settings)]
    return " ".join(["ldm-train sample", *words])


def write_out(settings: SampleSettings) -> list[str]:
    """Return the word for the folder that a command draws into."""
    return [shlex.quote(word) for word in write_words("out", settings.out)]


def write_words(name: str, value: object) -> list[str]:
    """Return the words that give a setting a plain value; a mapping with names of one's own has a word for each."""
    if isinstance(value, dict):
        if name in (*mappings_of("sample"), *list_part_groups(SampleSettings)):
            return [word for key, one in value.items() for word in write_words(f"{name}.{key}", one)]
        return [f"{name}={write_mapping(value)}"]
    if isinstance(value, str):
        return [f"{name}={value if PLAIN.fullmatch(value) else quote(value)}"]
    return [f"{name}={text(value)}"]


def write_prompt(prompt: Prompt) -> str:
    """Return a member of a list that is read as this prompt, whatever characters are in its text."""
    if prompt.options or OPTION.search(prompt.text) or not PLAIN.fullmatch(prompt.text):
        return quote(json.dumps(prompt.as_mapping(), ensure_ascii=False))
    return quote(prompt.text)
