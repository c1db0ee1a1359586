"""`ldm-train VERB [overrides]`: find the verb, compose its config, run it; say what is wrong in one message.

Nothing heavier than Hydra is imported before the config is known to be right, so a typo is answered at once.
"""

import importlib
import signal
import sys
from contextlib import nullcontext
from importlib.metadata import version

from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.cli.launcher import end_with_launcher
from ldm_train.settings.composition import ConfigError, as_yaml, compose
from ldm_train.settings.schema.commands import CONTINUED
from ldm_train.settings.schema.options import CommandSettings
from ldm_train.settings.trust import granted, read_grants
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.interrupts import StopSignal, stoppable
from ldm_train.util.processes import launched_rank
from ldm_train.util.text import nearest

VERBS = {
    "check": "read everything that encoding will read, and list what cannot be used",
    "encode": "encode captioned pictures into a latent cache",
    "train": "train a noise predictor on latent caches, or on pictures that are encoded on the fly",
    "sample": "draw pictures for prompts with a trained run",
    "evaluate": "measure a trained run on what it never saw",
    "export": "write a run's trained weights as a file, or as diffusers', the web UIs' or a LoRA's folder",
    "report": "write one page about runs: curves, pictures, metrics, settings, what went wrong",
    "runs": "list the runs below a folder: state, speed, best metrics, what differs",
    "train_autoencoder": "train a KL autoencoder on pictures",
}
BARE = {"runs": "dir"}  # a setting whose name may be left out before its value
PRINT = "--print-config"
SWEEPING = {"-m", "--multirun", "--dry-run"}


def usage() -> str:
    lines = [f"  {verb:<18} {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: ldm-train VERB [key=value ...]",
            "",
            *lines,
            "",
            "`ldm-train VERB --help` shows a verb's settings and groups, with GROUP=OPTION also those of that option;",
            "`ldm-train VERB ... --print-config` prints the settings that these words make, as YAML;",
            "`ldm-train VERB --multirun seed=0,1 ...` runs it with every combination of several values;",
            "`ldm-train --version` prints the version.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; exits with 0, 1 (refused or failed, with a message), 2 (not understood) or 130 (Ctrl-C)."""
    end_with_launcher()
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        print(f"ldm-train {version('ldm-train')}")
        raise SystemExit(0)
    verb, *overrides = words
    if verb not in VERBS:
        _fail(f"unknown verb {verb!r}{nearest(verb, VERBS)}\n\n{usage()}", code=2)
    overrides = [_named(verb, word) for word in overrides]
    try:
        if any(word in ("-h", "--help") for word in overrides):
            from ldm_train.settings.help_text import describe_command

            print(describe_command(verb, overrides))
            raise SystemExit(0)
        with granted(read_grants(overrides)):
            if SWEEPING & set(overrides):
                from ldm_train.cli.sweep import sweep

                raise SystemExit(sweep(verb, overrides))
            if PRINT in overrides:
                print(as_yaml(compose(verb, [word for word in overrides if word != PRINT])), end="")
                raise SystemExit(0)
            _run(verb, compose(verb, overrides))
    except ConfigError as error:
        _fail(str(error), code=2)


def _named(verb: str, word: str) -> str:
    return f"{BARE[verb]}={word}" if verb in BARE and "=" not in word and not word.startswith(("-", "~", "+")) else word


def _run(verb: str, settings: CommandSettings) -> None:
    try:
        refuse_at_once(verb, settings)
        _tell(verb, settings)
        with stoppable() if verb in CONTINUED else nullcontext():
            code = importlib.import_module(f"ldm_train.commands.{verb}.command").run(settings)
    except Exception as error:
        if settings.debug or not _is_message(error):
            raise
        _fail(f"{str(error) or type(error).__name__}\n(debug=true shows where this came from)", code=1)
    except StopSignal as stop:
        print(f"stopped by {stop} before its first step; the same command starts it (exit code {INTERRUPTED})")
        raise SystemExit(0 if launched_rank() else INTERRUPTED) from None
    except KeyboardInterrupt:
        _fail("interrupted", code=128 + signal.SIGINT)
    raise SystemExit(code or 0)


def _is_message(error: Exception) -> bool:
    """Whether it was raised for a person, by us or by Lightning, which was imported if it has raised anything."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    refusals = (ValueError, OSError) if lightning is None else (ValueError, OSError, lightning.MisconfigurationException)
    return isinstance(error, refusals) or lacks_memory(error)


def lacks_memory(error: Exception) -> bool:
    """Return whether an error reports that an object is larger than the free memory; torch's on the CPU has no class."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _tell(verb: str, settings: CommandSettings) -> None:
    """The settings without effect, once."""
    from ldm_train.settings.without_effect import notes

    if launched_rank() == 0:
        for line in notes(verb, settings):
            print(line)


def _fail(message: str, *, code: int) -> None:
    print(f"ldm-train: {message}", file=sys.stderr)
    raise SystemExit(code)
