"""Read the prompts of a setting: one text, a list of texts or mappings, or a file of either."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldm_train.assembly.prompt_options import LETTERS, OPTION, Prompt, read_line, read_mapping_prompt
from ldm_train.settings.safe_yaml import read_plain_yaml
from ldm_train.settings.schema.typed_values import expand_home
from ldm_train.util.files import LONGEST_NAME
from ldm_train.util.inputs import MAX_PROMPTS, read_user_text
from ldm_train.util.messages import note_all
from ldm_train.util.prompt_syntax import list_syntax_notes
from ldm_train.util.safe_json import read_json
from ldm_train.util.text import shorten

EXAMPLE = "{prompt: a fox, seed: 7}"
Item = tuple[str | Mapping[str, object], str]  # a text or a mapping, and where it is


def parse_prompts(given: object, *, setting: str = "prompts") -> list[Prompt]:
    """Return the prompts of a setting: a list, one text, or the name of a file.

    Raises:
        ValueError: something else, an option that is not known or has another value, a file that cannot be read, or no
            prompt.
    """
    return [
        read_line(item, where) if isinstance(item, str) else read_mapping_prompt(item, where)
        for item, where in _list_items(given, setting)
    ]


def parse_texts(given: object, *, setting: str = "prompts") -> list[str]:
    """Return the prompts of a setting that takes texts only.

    Raises:
        ValueError: as `parse_prompts`, or a prompt has an option.
    """
    return [_read_text(item, where, setting) for item, where in _list_items(given, setting)]


def read_prompts(given: object, *, setting: str = "prompts") -> list[Prompt]:
    """Return prompts as `parse_prompts`, and report syntax of a web UI in them."""
    prompts = parse_prompts(given, setting=setting)
    note_all(list_syntax_notes([prompt.text for prompt in prompts], setting))
    return prompts


def read_texts(given: object, *, setting: str = "prompts") -> list[str]:
    """Return texts as `parse_texts`, and report syntax of a web UI in them."""
    texts = parse_texts(given, setting=setting)
    note_all(list_syntax_notes(texts, setting))
    return texts


def list_texts(prompts: Sequence[Prompt]) -> list[str]:
    """Return all texts that drawing these prompts reads, with their negative prompts."""
    return [*(prompt.text for prompt in prompts), *(prompt.negative for prompt in prompts if prompt.negative)]


def looks_like_a_file(text: str) -> bool:
    """Return whether a text is the name of a file, as `prompts.txt` and `lists/animals` are, and not a prompt."""
    return " " not in text and (Path(text).suffix != "" or "/" in text) and len(Path(text).name.encode()) <= LONGEST_NAME


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a prompt may be longer than any file's name
        return False


def _list_items(given: object, setting: str) -> list[Item]:
    """Return what a setting holds or names.

    Raises:
        ValueError: as `parse_prompts`.
    """
    if isinstance(given, str) and (_is_file(expand_home(given)) or looks_like_a_file(given)):
        items = list(_read_file(expand_home(given), setting))
    else:
        items = list(_read_list(given if isinstance(given, list) else [given], f"{setting}={given}", place=setting))
    if not items:
        raise ValueError(f"{setting}={given} holds no prompt")
    return items


def _read_list(listed: Sequence[object], given: str, *, place: str) -> Iterator[Item]:
    for number, item in enumerate(listed, start=1):
        where = f"{place}, prompt {number}" if len(listed) > 1 else place
        if isinstance(item, Mapping) and "prompt" in item:
            yield {str(key): value for key, value in item.items()}, where
        elif item is None or isinstance(item, list | Mapping):
            raise ValueError(f"{given} must be texts: one, a list of them, or a file of them; or mappings such as {EXAMPLE}")
        else:
            yield str(item), where


def _read_file(path: str, setting: str) -> Iterator[Item]:
    """Yield the prompts in a file: a list in YAML or JSON, or else one a line, without lines that begin with #."""
    reader = {".yaml": read_plain_yaml, ".yml": read_plain_yaml, ".json": read_json}.get(Path(path).suffix.lower())
    try:
        if reader is not None:
            listed = reader(Path(path))
            if not isinstance(listed, list):
                raise ValueError(f"it must hold a list of texts, or of mappings such as {EXAMPLE}")
            yield from _read_list(listed, path, place=path)
            return
        lines = read_user_text(Path(path), limit=MAX_PROMPTS).splitlines()
    except (ValueError, OSError) as error:
        raise ValueError(f"{setting}={path}: {error}; give a text file, or a list: '{setting}=[\"…\"]'") from error
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            yield line.strip(), f"{path}, line {number}"


def _read_text(item: str | Mapping[str, object], where: str, setting: str) -> str:
    """Return a prompt's text; a line may hold any `--word` that is no option elsewhere."""
    prompt = Prompt(item, where) if isinstance(item, str) else read_mapping_prompt(item, where)
    found = [f"--{one}" for one in OPTION.findall(prompt.text) if one in LETTERS] if isinstance(item, str) else []
    if options := [*found, *prompt.options]:
        raise ValueError(
            f"{where}: {shorten(prompt.text)!r} has the option {options[0]}, and {setting} takes texts only; take it out "
            "(sample, fit and pictures.prompts take options)"
        )
    return prompt.text
