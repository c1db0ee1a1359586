"""What a network is conditioned on besides the caption: the base of conditions, and all conditions of a run together."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ldm_train.types import ConditionedExamples, Conditioning, Given
from ldm_train.util.safe_json import Json

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def join_values(values: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors joined in their own type: under autocast a CPU refuses to join the float16 of a cache."""
    with torch.autocast(values[0].device.type, enabled=False):
        return torch.cat([*values], dim)


class Condition(nn.Module):
    """A condition: it reads values of the data, which batches carry, and turns them into a part of the conditioning.

    Args:
        name: in batches, in messages, and before the names of its parameters; letters, digits and underscores.
        dropout: share of the examples that are trained without it, so that pictures can be drawn without it too. Of the
            examples whose caption is dropped, half lack all conditions as well (as in arXiv 2211.09800, section 3.2.1).

    Attributes:
        token_width: D of the tokens that it gives for cross-attention, which the text encoder's must have too; 0 for none.
        vector_width: D of the vector that it gives; 0 for none.
        map_channels: C of the maps that it gives; 0 for none.
        identity: everything but trained weights that the conditioning depends on, in plain values.
        takes_number: whether a number says what to draw, `number.NAME=VALUE` on the command line.
        takes_map: whether a further picture does, `map.NAME=FILE`; of `map` alone.
        takes_mask: whether a picture with a mask does, `picture=FILE mask=FILE`; of `inpaint` alone.
        takes_picture: whether a picture that is enlarged does, `picture=FILE`; of `low_resolution` alone.
        unit: what the sides of pictures must be multiples of, in pixels.

    Raises:
        ValueError: a name of other characters, or a dropout outside [0, 1).
    """

    token_width = 0
    vector_width = 0
    map_channels = 0
    identity: dict[str, Json]
    takes_number = False
    takes_map = False
    takes_mask = False
    takes_picture = False
    unit = 1

    def __init__(self, name: str, *, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"a condition's name={name!r} must be letters, digits and underscores, such as depth")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r} of the condition {name} must be a number from 0 to below 1")
        self.name = name
        self.dropout = float(dropout)

    @property
    def can_lack(self) -> bool:
        """Whether pictures can be drawn without it."""
        return self.dropout > 0

    @property
    def word(self) -> str | None:
        """What gives it on the command line; None if it follows from the pictures' size."""
        if self.takes_mask or self.takes_picture:
            return "picture=FILE mask=FILE" if self.takes_mask else "picture=FILE"
        return f"map.{self.name}=FILE" if self.takes_map else f"number.{self.name}=VALUE" if self.takes_number else None

    def read(self, examples: ConditionedExamples) -> Callable[[Tensor, Tensor], Given]:
        """Return a function from examples (B,) and their views (B,) to what is known of them.

        Raises:
            ValueError: the data does not have what the condition needs.
        """
        raise NotImplementedError

    def draw(self, given: Given, positions: Tensor, *, seed: int) -> Given:
        """Return what a training step uses of what was read, such as noise on it, by seed and positions (B,)."""
        return given

    def read_step(
        self, read: Callable[[Tensor, Tensor], Given], examples: Tensor, views: Tensor, positions: Tensor, *, seed: int
    ) -> Given:
        """Return what a training step uses of views (B,) of examples (B,) at these positions (B,).

        Args:
            read: what `read` returned.
        """
        return self.draw(read(examples, views), positions, seed=seed)

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        """Return what `count` pictures of this (height, width), in pixels, are drawn with where nothing is given."""
        raise NotImplementedError

    def gather(self, rows: Sequence[Given], *, latent_size: tuple[int, int]) -> Given:
        """Return what is known of single examples together, for latents of this (height, width)."""
        return Given(join_values([row.values for row in rows]), torch.cat([row.kept for row in rows]))

    def prepare(self, given: Given, examples: Tensor) -> Given:
        """Return what drawing uses of what is known of examples (B,), such as noise on it, by their numbers."""
        return given

    def depict(self, values: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return images (B, C, H, W) in [-1, 1] of any size that show values (B, ...); None if they cannot be seen.

        Args:
            decode: makes images (B, 3, H, W) of raw latents (B, C, h, w).
        """
        return None

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        """Return the conditioning of values (B, ...); that of no value where `kept` (B,) is False."""
        raise NotImplementedError


class Conditions(nn.ModuleDict):
    """All conditions of a run besides the caption, by name.

    Raises:
        ValueError: two have the same name, or one that a module's dictionary cannot take.
    """

    def __init__(self, conditions: Sequence[Condition] = ()) -> None:
        super().__init__()
        for condition in conditions:
            if condition.name in self:
                raise ValueError(f"two conditions have the name {condition.name}; give one of them another name=…")
            try:
                self[condition.name] = condition
            except KeyError as error:
                raise ValueError(f"a condition cannot have the name {condition.name}; give it another name=…") from error

    @property
    def each(self) -> list[Condition]:
        """The conditions in their order."""
        return [condition for condition in self.values() if isinstance(condition, Condition)]

    @property
    def needed(self) -> list[Condition]:
        """Those that pictures cannot be drawn without, and that do not follow from the pictures' size."""
        return [condition for condition in self.each if not condition.can_lack and condition.word is not None]

    @property
    def vector_width(self) -> int:
        """D of all vectors together."""
        return sum(condition.vector_width for condition in self.each)

    @property
    def map_channels(self) -> int:
        """C of all maps together."""
        return sum(condition.map_channels for condition in self.each)

    @property
    def unit(self) -> int:
        """What the sides of pictures must be multiples of, in pixels."""
        return math.lcm(*(condition.unit for condition in self.each))

    def forward(self, text: Conditioning, given: Mapping[str, Given]) -> Conditioning:
        """Return the conditioning of captions joined with that of the conditions, each of which must be given."""
        if not len(self):
            return text
        return Conditioning.join([text, *(one(given[one.name].values, given[one.name].kept) for one in self.each)])

    def complete(
        self, given: Mapping[str, Given], count: int, *, size: tuple[int, int], latent_size: tuple[int, int]
    ) -> dict[str, Given]:
        """Return a row for each of `count` pictures: of what is given for each or for all, and `absent` of what is left out.

        Raises:
            ValueError: a name that is no condition, a condition that must be given and is not, or values that `check_given`
                refuses.
        """
        if unknown := sorted(given.keys() - self.keys()):
            known = ", ".join(self) or "nothing but the caption"
            raise ValueError(f"this network is not conditioned on {unknown[0]}; it is on {known}")
        if missing := next((one for one in self.needed if one.name not in given), None):
            raise ValueError(
                f"this network is conditioned on {missing.name} and was never trained without it: give {missing.word}"
            )
        if wrong := next((name for name, one in given.items() if not isinstance(one, Given)), None):
            raise ValueError(
                f"{wrong} must be given as Given(values, kept) of ldm_train.types, and is {type(given[wrong]).__name__}"
            )
        rows = {
            name: one[torch.zeros(count, dtype=torch.int64)] if len(one.kept) == 1 else one for name, one in given.items()
        }
        if wrong := next((name for name, one in rows.items() if len(one.kept) != count), None):
            raise ValueError(
                f"{wrong} is given for {len(rows[wrong].kept)} pictures, and {count} are drawn; give one or all"
            )
        absent = self.absent(count, size=size, latent_size=latent_size)
        for name, one in rows.items():
            check_given(self[name], one, absent[name])  # type: ignore[arg-type]
        return absent | rows

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> dict[str, Given]:
        """Return what `count` pictures of this (height, width), in pixels, are drawn with where nothing is given."""
        return {one.name: one.absent(count, size=size, latent_size=latent_size) for one in self.each}

    def known(self, given: Mapping[str, Given]) -> dict[str, Given]:
        """Return what this network is conditioned on, of what is given for another network."""
        return {name: values for name, values in given.items() if name in self}

    def without(self, given: Mapping[str, Given]) -> dict[str, Given]:
        """Return what is given, with the conditions left out that the network was also trained without.

        Raises:
            ValueError: there is none.
        """
        found = {condition.name for condition in self.each if condition.can_lack}
        if not found:
            raise ValueError(
                "guidance.condition_scale leads away from pictures without the conditions, and this network has none with a "
                "dropout; leave it out"
            )
        dropped = {name: Given(rows.values, torch.zeros_like(rows.kept)) for name, rows in given.items() if name in found}
        return {**given, **dropped}

    def gather(
        self, read: Callable[[Tensor, Tensor], dict[str, Given]], examples: Tensor, *, latent_size: tuple[int, int]
    ) -> dict[str, Given]:
        """Return what is known of examples (B,) of the data, for latents of this (height, width).

        Args:
            read: returns it for examples of one shape and their views.
        """
        rows = [read(example, torch.zeros_like(example)) for example in examples.view(-1, 1)] if len(self) else []
        found = {one.name: one.gather([row[one.name] for row in rows], latent_size=latent_size) for one in self.each}
        return {one.name: one.prepare(found[one.name], examples) for one in self.each}


def check_given(condition: Condition, given: Given, absent: Given) -> None:
    """Raise if values cannot be what a condition reads of the data.

    Args:
        absent: of the same condition, for pictures of the same size.

    Raises:
        ValueError: they are of another shape or not finite, or are left out and the network was never trained without them.
    """
    shape, wanted = tuple(given.values.shape[1:]), tuple(absent.values.shape[1:])
    if shape != wanted:
        raise ValueError(
            f"{condition.name} is given with values of the shape {shape} for each picture, and pictures of this size take "
            f"{wanted}"
        )
    if not given.values.isfinite().all():
        raise ValueError(f"{condition.name} is given with NaN or infinity; all its values must be finite")
    if not condition.can_lack and not given.kept.all():
        raise ValueError(
            f"{condition.name} is given with kept=False, and this network was never trained without it; give every picture "
            "one"
        )


def drop(features: Tensor, kept: Tensor) -> Tensor:
    """Return features (B, ...) with zeros where `kept` (B,) is False."""
    return torch.where(kept.view(-1, *[1] * (features.ndim - 1)), features, torch.zeros_like(features))


def scale_map(maps: Tensor, size: tuple[int, int], *, nearest: bool = False) -> Tensor:
    """Return maps (B, C, H, W) scaled to this (height, width); with `nearest`, values are not mixed."""
    if tuple(maps.shape[2:]) == size:
        return maps
    if nearest:
        return interpolate(maps.float(), size, mode="nearest-exact")
    return interpolate(maps.float(), size, mode="bilinear", antialias=True)


def look_up_map(examples: ConditionedExamples, name: str, chosen: Tensor, views: Tensor) -> Given:
    """Return a map of views (B,) of examples (B,), each of which has it."""
    return Given(examples.maps(name, chosen, views), torch.ones(len(chosen), dtype=torch.bool))
