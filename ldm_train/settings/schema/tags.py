"""The settings of captions that are tags."""

from ldm_train.settings.schema.kinds import BelowOne, Section, WholeNumber, setting


class TagSettings(Section):
    """Captions that are tags, separated by commas: drawn anew at each step."""

    shuffle: bool = setting(False, "put them into another order each time")
    keep: WholeNumber = setting(0, "so many at the start stay there, and are never left out")
    dropout: BelowOne = setting(0.0, "share of the others that are left out")
