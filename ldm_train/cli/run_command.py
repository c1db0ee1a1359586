"""Find the verb of a command line, compose its settings, run it; say what is wrong in one message.

Nothing heavier than Hydra is imported before the config is known to be right, so a typo is answered at once.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.cli.launcher import end_with_launcher
from ldm_train.cli.quick_answers import HELP, describe_usage
from ldm_train.settings.composition import ConfigError, as_yaml, compose
from ldm_train.settings.config_file import CONFIG
from ldm_train.settings.schema.commands import CONTINUED, own_settings
from ldm_train.settings.schema.options import CommandSettings
from ldm_train.settings.shipped import CONFIG_PATH, searching
from ldm_train.settings.suggestions import suggest_setting
from ldm_train.settings.trust import granted, raised_in_own_code, read_grants
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.heavy_imports import import_heavy
from ldm_train.util.interrupts import StopSignal, ending_at_once, stoppable
from ldm_train.util.light_tables import import_what_is_needed
from ldm_train.util.messages import note_all, print_messages
from ldm_train.util.processes import launched_rank
from ldm_train.util.text import nearest

READ_BY_PROGRAMS = {"report", "runs", "tokens"}  # which print their result only
BARE = {"runs": "dir", "fit": "source.path", "tokens": "text"}  # a setting whose name may be left out before its value
PRINT, SWEEP, DRY_RUN = "--print-config", ("-m", "--multirun"), "--dry-run"
OPTIONS = (*HELP, PRINT, *SWEEP, DRY_RUN)


def run_command(words: Sequence[str], verbs: Mapping[str, str]) -> None:
    """Run a command line.

    Args:
        verbs: the verbs, with what each does.

    Raises:
        SystemExit: always, with the exit code.
        KeyboardInterrupt: it was interrupted.
        BrokenPipeError: nobody reads what it prints.
    """
    end_with_launcher()
    verb, *given = words
    if verb not in verbs:
        _fail(f"unknown verb {verb!r}{nearest(verb, verbs)}\n\n{describe_usage(verbs)}", code=2)
    options = [word for word in given if word.startswith("-")]
    try:
        refuse_unknown(verb, options)
        run_verb(verb, name_bare(verb, [word for word in given if word not in options]), options)
    except ConfigError as error:
        _fail(str(error), code=2)


def run_verb(verb: str, overrides: list[str], options: Sequence[str]) -> None:
    """Run a verb, or do with it what an option asks for.

    Raises:
        ConfigError: the words do not make its settings.
    """
    with searching(overrides), granted(read_grants(overrides)):
        if {*HELP} & {*options}:
            from ldm_train.settings.help_text import describe_command

            print(describe_command(verb, overrides))
            raise SystemExit(0)
        if {*SWEEP, DRY_RUN} & {*options}:
            from ldm_train.cli.sweep import sweep

            raise SystemExit(sweep(verb, [*options, *overrides]))
        settings = compose(verb, overrides)
        if PRINT in options:
            print(as_yaml(settings), end="")
            raise SystemExit(0)
        _run(verb, settings)


def refuse_unknown(verb: str, options: Sequence[str]) -> None:
    """Raise for an option that there is not: a typing error of one, or a setting as other programs take it, `--lr 1e-4`.

    Raises:
        ConfigError: it gives the nearest option, or the setting.
    """
    for option in options:
        if option not in OPTIONS:
            name, own = option.lstrip("-").partition("=")[0].replace("-", "_"), own_settings(verb)
            setting = f"; did you mean {name!r}?" if name in own else suggest_setting(verb, name, [])
            near = "" if setting else nearest(option, OPTIONS)
            hint = near or f"; a setting is NAME=VALUE, without dashes{setting or nearest(name, own)}"
            raise ConfigError(f"unknown option {option} of {verb}{hint} (`ldm-train {verb} --help` lists them)")


def name_bare(verb: str, words: Sequence[str]) -> list[str]:
    """Return the words, a value without its setting's name with the name that may be left out.

    Raises:
        ConfigError: there are several such values.
    """
    if verb not in BARE:
        return [*words]
    values = [word for word in words if is_bare(verb, word)]
    if len(values) > 1:
        raise ConfigError(f"{verb} takes one {BARE[verb]}=…; given: {', '.join(values)}")
    return [f"{BARE[verb]}={word}" if word in values else word for word in words]


def is_bare(verb: str, word: str) -> bool:
    """Return whether a word is a value without a name: it has no "=", or it is a path in which one occurs, as in sweeps."""
    name, equals, _ = word.partition("=")
    if not equals:
        return not word.startswith(("~", "+")) or word.startswith("~/")
    if name in (CONFIG, CONFIG_PATH, *own_settings(verb)) or name.startswith("hydra/"):
        return False
    return "/" in name or Path(word).exists()


def _run(verb: str, settings: CommandSettings) -> None:
    import_what_is_needed()
    try:
        print_messages(to_stderr=verb in READ_BY_PROGRAMS)
        refuse_at_once(verb, settings)
        note_settings(verb, settings)
        with stoppable() if verb in CONTINUED else nullcontext():
            with ending_at_once():
                command = import_heavy(f"ldm_train.commands.{verb}.command")
            code = command.run(settings)
    except BrokenPipeError:
        raise
    except Exception as error:
        if settings.debug or not _is_message(error) or raised_in_own_code(error):
            raise
        _fail(f"{str(error) or type(error).__name__}\n(debug=true shows where this came from)", code=1)
    except StopSignal as stop:
        print(f"stopped by {stop} before its first step; the same command starts it (exit code {INTERRUPTED})")
        raise SystemExit(0 if launched_rank() else INTERRUPTED) from None
    raise SystemExit(code or 0)


def _is_message(error: Exception) -> bool:
    """Whether it was raised for a person, by us or by Lightning, which was imported if it has raised anything."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    refusals = (ValueError, OSError) if lightning is None else (ValueError, OSError, lightning.MisconfigurationException)
    return isinstance(error, refusals) or lacks_memory(error)


def lacks_memory(error: Exception) -> bool:
    """Return whether an error reports that an object is larger than the free memory; torch's on the CPU has no class."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def note_settings(verb: str, settings: CommandSettings) -> None:
    """Report the settings without effect, once."""
    from ldm_train.settings.without_effect import notes

    if launched_rank() == 0:
        note_all(notes(verb, settings))


def _fail(message: str, *, code: int) -> None:
    print(f"ldm-train: {message}", file=sys.stderr)
    raise SystemExit(code)
