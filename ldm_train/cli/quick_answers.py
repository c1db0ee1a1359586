"""What `ldm-train` answers at once: how it is used, and its version. Only the standard library is imported."""

from collections.abc import Mapping, Sequence

HELP = ("-h", "--help")


def describe_usage(verbs: Mapping[str, str]) -> str:
    """Return how the program is used, with what each verb does."""
    lines = [f"  {verb:<18} {what}" for verb, what in verbs.items()]
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


def answer_at_once(words: Sequence[str], verbs: Mapping[str, str]) -> None:
    """Print the usage or the version if the words of a command line ask for it, or if there are none.

    Raises:
        SystemExit: the words were answered; the exit code is 2 if there are none.
    """
    if not words or words[0] in HELP:
        print(describe_usage(verbs))
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"ldm-train {version('ldm-train')}")
        raise SystemExit(0)
