"""Which pictures of a run are drawn while it trains, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ldm_train.generation import SamplingSettings

TRAINED, HELD_OUT = "trained", "held out"  # what is said of an example in pictures


@dataclass(frozen=True)
class DrawnExample:
    """An example of the data with its caption, which is drawn and compared with its picture."""

    number: int
    caption: str
    held_out: bool

    @property
    def kind(self) -> str:
        return HELD_OUT if self.held_out else TRAINED


@dataclass(frozen=True)
class AlikePrompts:
    """Prompts that are drawn with the same settings.

    Args:
        places: where they stand among all prompts.
        numbers: the noise number of each.
        recipes: one for each row of pictures.
        size: height and width in pixels; None for the run's.
    """

    places: Sequence[int]
    numbers: Sequence[int]
    recipes: Sequence[SamplingSettings]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Drawing:
    """Which pictures of a run are drawn, and how.

    Args:
        prompts: drawn every time; a film strip shows the reverse process of the first one.
        recipes: by guidance scale; each draws all prompts. The first one also draws everything else.
        examples: drawn from their captions, below their pictures; trained ones first.
        alike: the prompts in groups with the same settings, the first prompt's first; empty if none has settings of its own.
        names: what the prompts are shown as, with their settings; None for the prompts.
    """

    prompts: list[str]
    recipes: Mapping[float, SamplingSettings]
    examples: Sequence[DrawnExample]
    alike: Sequence[AlikePrompts] = ()
    names: Sequence[str] | None = None

    @cached_property
    def recipe(self) -> SamplingSettings:
        """The settings at the first guidance scale."""
        return next(iter(self.recipes.values()))

    @property
    def captions(self) -> list[str]:
        """All captions that are ever drawn."""
        negative = [recipe.negative_prompt for alike in self.alike for recipe in alike.recipes]
        return [*self.prompts, *self.example_captions, self.recipe.negative_prompt, *negative]

    @property
    def groups_of_prompts(self) -> Sequence[AlikePrompts]:
        """All prompts in groups with the same settings."""
        every = range(len(self.prompts))
        return self.alike or [AlikePrompts(every, every, [*self.recipes.values()])]

    @property
    def shows_examples(self) -> bool:
        """Whether the prompts are the captions of the examples, without settings of their own."""
        return self.prompts == self.example_captions and not self.alike

    @property
    def example_captions(self) -> list[str]:
        return [example.caption for example in self.examples]

    @property
    def groups(self) -> dict[str, list[int]]:
        """The places of the trained and of the held-out examples, by kind; no kind without an example."""
        kinds = [example.kind for example in self.examples]
        return {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)}

    @property
    def kinds(self) -> list[str]:
        """What each prompt is, "trained" or "held out", if the prompts are the captions of examples; else nothing."""
        return [example.kind for example in self.examples] if self.shows_examples else []

    def settings(self, size: tuple[int, int]) -> dict[str, object]:
        """Return what decides the pictures, in plain values."""
        return {
            "prompts": list(self.names or self.prompts),
            "kinds": self.kinds,
            "guidance": list(self.recipes),
            "size": list(size),
            "seed": self.recipe.seed,
        }
