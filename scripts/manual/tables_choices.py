"""The rules by which `ldm-train fit` chooses, as a table."""

from ldm_train.commands.fit.choosing import RULES
from manual.measured import make_table


def fit_rules() -> str:
    """Return each setting that is chosen, with its rule."""
    return make_table(["setting", "rule"], [[f"`{name}`", rule] for name, rule in RULES.items()])
