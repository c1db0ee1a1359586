"""`ldm-train tokens`: split a text into tokens, in the terminal and as a page; write vectors for the embedding projector."""

import sys
from pathlib import Path

from rich.console import Console

from ldm_train.assembly.prompts import read_texts
from ldm_train.commands.tokens.opened_encoder import open_encoder
from ldm_train.commands.tokens.projector_files import write_projector
from ldm_train.commands.tokens.token_facts import examine_text
from ldm_train.commands.tokens.token_lines import print_tokens
from ldm_train.commands.tokens.tokens_page import build_tokens_page
from ldm_train.reports.page import is_page, write_page
from ldm_train.settings.schema.using import TokensSettings
from ldm_train.util.ownership import PROJECTOR, check_file, check_folder
from ldm_train.util.text import as_word

WIDE = 10_000  # columns if the output is not a terminal, so that no line is broken


def run(settings: TokensSettings) -> None:
    """Print the tokens of the text, and write what the settings name.

    Raises:
        ValueError: there is nothing to do, the text encoder cannot be opened, or a file may not be written.
    """
    refuse_settings(settings)
    words = None if settings.words is None else read_texts(settings.words, setting="words")
    opened = open_encoder(settings)
    if settings.text is not None:
        facts = examine_text(opened, settings.text, neighbours=settings.neighbours)
        print_tokens(facts, Console(width=None if sys.stdout.isatty() else WIDE))
        if settings.out is not None:
            write_page(build_tokens_page(facts), Path(settings.out))
            print(f"wrote {settings.out}")
    if words is not None:
        assert settings.projector is not None
        files = write_projector(opened, words, Path(settings.projector))
        print(f"wrote {', '.join(files)} to {settings.projector}")
        print(f"tensorboard --logdir {settings.projector} opens them: choose Projector in its menu")


def refuse_settings(settings: TokensSettings) -> None:
    """Raise if the settings do not go together, or name files that may not be written.

    Raises:
        ValueError: it names them.
    """
    if settings.text is None and settings.words is None:
        raise ValueError('tokens needs a text, such as ldm-train tokens "a cat wearing a suit" run_dir=DIR, or words=FILE')
    if (settings.words is None) != (settings.projector is None):
        given, missing = ("words", "projector=DIR") if settings.projector is None else ("projector", "words=FILE")
        raise ValueError(f"{given} needs {missing}: the words, and the folder for their vectors")
    if settings.out is not None:
        if settings.text is None:
            raise ValueError(f"out={settings.out} is a page about a text; give one")
        out = Path(settings.out)
        check_file(out, is_page, setting="out")
        if out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"out={out} must end in .html; set {as_word('out', out.with_suffix('.html'))}")
    if settings.projector is not None:
        check_folder(Path(settings.projector), PROJECTOR, setting="projector")
