"""What messages suggest works when it is pasted: a shell makes one word of it, and its command takes the word."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import ldm_train
from ldm_train.data.sources.annotations import suggest_column
from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.schema.commands import SCHEMAS, own_settings
from ldm_train.settings.schema.options import PART_LISTS, PASSED, TrainerSettings, list_part_groups, select
from ldm_train.settings.shipped import groups, shipped
from ldm_train.settings.signatures import signature
from ldm_train.settings.validation import out_of_range
from ldm_train.util.text import as_word

PACKAGE = Path(ldm_train.__file__).parent
NEEDED = {
    "fit": ["source.path=x", "out=x"],
    "train": ["cache=x", "run_dir=x"],
    "check": ["source.path=x"],
    "encode": ["source.path=x", "cache=x"],
    "sample": ["run_dir=x", "prompts=[x]", "out=x"],
    "evaluate": ["run_dir=x", "out=x.json"],
    "export": ["run_dir=x", "out=x"],
    "report": ["run_dir=x", "out=x"],
    "runs": [],
    "tokens": ["text=x"],
    "explain": ["run_dir=x", "out=x"],
    "playground": ["run_dir=x"],
    "train_autoencoder": ["source.path=x", "run_dir=x"],
}
# A word in single quotes, or NAME=VALUE up to what ends it in a sentence; ⟪…⟫ is a value that is put in.
VALUE = r"""(?:⟪[^⟫]*⟫|"[^"\s]*"|\[[^\]]*\]|\{[^}]*\}|[^\s,;:)'"`\[\]{}])"""
SUGGESTION = re.compile(rf"""(?<![\w.'"])(?:'(?P<quoted>[a-z_.]+=[^']*)'|(?P<name>[a-z_.]+)=(?P<value>{VALUE}*))""")
OMITTED = ("", "…", "[…]", "clip_…", "⟪⟫⟪⟫⟪⟫")


@cache
def option_words(verb: str, name: str) -> tuple[tuple[str, ...], ...]:
    """Return the words that choose each option with this setting; () in it if none is needed."""
    group, _, key = name.partition(".")
    if name in own_settings(verb) or name in list_part_groups(SCHEMAS[verb]) or name in ("memory", "experiment"):
        return ((),)
    if group not in list_part_groups(SCHEMAS[verb]):
        return ()
    if group == "trainer":
        return ((),) if key in TrainerSettings.model_fields else ()
    found = []
    for option in groups()[group]:
        config = shipped(f"{group}/{option}")
        kinds = signature(str(config.get("_target_", "")))
        if key in config.keys() or (kinds is not None and key in kinds.kinds):  # noqa: SIM118
            found.append((f"{group}={option}", *missing_words(f"{group}={option}")))
    return tuple(found)


def missing_words(choice: str) -> list[str]:
    """Return words for what must be given with an option of a group."""
    group, _, option = choice.partition("=")
    config = shipped(f"{group}/{option}") if option in groups().get(group, ()) else {}
    missing = [f"{group}.{name}" for name in map(str, config) if OmegaConf.is_missing(config, name)]
    return [f"{name}={'[small]' if name in PART_LISTS else 'x'}" for name in missing]


def texts_of_messages(path: Path) -> Iterator[str]:
    """Yield the texts in a file that are no docstrings, with ⟪…⟫ for what is put in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owners = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    skipped = {id(n.body[0].value) for n in owners if n.body and isinstance(n.body[0], ast.Expr)}
    skipped |= {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in ast.walk(n) if part is not n}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else "⟪⟫" for one in node.values)


def suggestions() -> list[str]:
    """Return the words with a setting in all messages, as they stand there."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in texts_of_messages(path):
            for match in SUGGESTION.finditer(text):
                word = match[0] if match["quoted"] else f"{match['name']}={match['value'].rstrip('.')}"
                name, _, value = (match["quoted"] or word).partition("=")
                known = any(option_words(verb, name) for verb in SCHEMAS)
                to_fill_in = re.search(r"\{[a-z_.]+\}$", value) or value in OMITTED
                if known and not to_fill_in and not value.startswith('"') and not is_passed(name):  # x="1" is of SVG
                    found.add(word)
    return sorted(found)


def is_passed(name: str) -> bool:
    """Return whether a setting is not for people to give."""
    group, _, key = name.partition(".")
    return key == "_target_" or key in PASSED.get(group, ())


def is_accepted(word: str) -> bool:
    """Return whether a command takes a word."""
    name = word.partition("=")[0]
    for verb, more in product(SCHEMAS, ([], ["interpolate=8"])):
        for words in option_words(verb, name):
            try:
                settings = compose(verb, [*NEEDED[verb], *more, *words, *missing_words(word), word])
            except ConfigError:
                continue
            if not any(problem.startswith(f"{name}=") for problem in out_of_range(settings)):
                return True
    return False


@pytest.mark.slow
def test_every_suggestion_works_when_it_is_pasted(tmp_path: Path) -> None:
    found = suggestions()
    assert len(found) > 150
    assert "'prompts=[\"a fox\"]'" in found
    filled = [word.replace("⟪⟫", "x") for word in found]
    script = "".join(f"printf '%s\\0' {word}; printf '\\n'\n" for word in filled)
    pasted = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    words = [line.rstrip("\0").split("\0") for line in pasted.splitlines()]
    assert [word for word, made in zip(filled, words, strict=True) if made != shlex.split(word)] == []
    whole = [shlex.split(word)[0] for word in found if "⟪⟫" not in word]  # into others, a value of the user's is put
    assert len(whole) > 90
    assert [word for word in whole if not is_accepted(word)] == []


@pytest.mark.parametrize("value", ["a b", "it's", 'a "b"', "{a,b}", "[1]*", "$HOME", " x ", "é", "a;b|c&d", "!x", "~/x"])
def test_a_value_of_the_users_is_suggested_as_a_word(value: str) -> None:
    [word] = shlex.split(as_word("source.caption_column", value))
    settings = compose("encode", ["cache=x", "source.path=x", word])
    assert select(settings, "source.caption_column") == value


@pytest.mark.parametrize("column", [" text", "it's the caption", "text (en)", "{caption}"])
def test_a_column_that_was_meant_can_be_pasted(column: str) -> None:
    message = suggest_column("txt", [column, "file"], "caption_column") if column == " text" else ""
    message = message or suggest_column(column[:-1], [column, "file"], "caption_column")
    [word] = [one for one in shlex.split(message.partition("did you mean ")[2].removesuffix("?")) if "=" in one]
    assert select(compose("encode", ["cache=x", "source.path=x", word]), "source.caption_column") == column
