"""Recognise the syntax of web UIs in captions and prompts, which here is text like any other."""

import re

NO_EFFECT = "has no effect; the encoder reads the brackets as text"
SYNTAX = re.compile(
    r"\([^()]*[^\d\s():]\s*:\s*\d(\.\d+)?\s*\)"  # (word:1.2)
    r"|\(\([^()]+\)\)|\[\[[^\[\]]+\]\]"  # ((word)), [[word]]
    r"|<(lora|lyco|hypernet):[^<>]*>"
    r"|\bBREAK\b"
    r"|\bNegative prompt:|\bSteps: \d+, Sampler:"
)


def find_web_ui_syntax(text: str) -> str | None:
    """Return the first part of a text that a web UI would not take as words, such as `(word:1.2)`; None without one."""
    match = SYNTAX.search(text)
    return match[0] if match else None


def list_syntax_notes(prompts: list[str], setting: str) -> list[str]:
    """Return a note if prompts have such syntax."""
    found = [part for part in map(find_web_ui_syntax, prompts) if part]
    if not found:
        return []
    return [f"note: {setting} has {found[0]!r}, in {len(found):,} of {len(prompts):,} prompts: it {NO_EFFECT}"]
