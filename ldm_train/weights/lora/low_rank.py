"""Low-rank adapters as named tensors, and what they add to the weights of their layers.

Names are a layer's with `.lora_A.weight` (r, in, ...), `.lora_B.weight` (out, r, ...), `.alpha` () and, of DoRA,
`.lora_magnitude_vector` (out,): alpha / r B A is added, and the rows then have the lengths of the magnitudes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DOWN, UP, ALPHA, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".alpha", ".lora_magnitude_vector"


@dataclass(frozen=True)
class Layer:
    """The adapter of one layer.

    Raises:
        ValueError: shapes that belong to none.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if min(len(down), len(up)) < 2 or not 0 < down[0] == up[1] or any(side != 1 for side in up[2:]):
            raise ValueError(f"matrices of shapes {down} and {up} are no pair of a LoRA's")
        if self.magnitude is not None and self.magnitude.numel() != up[0]:
            raise ValueError(f"DoRA's lengths of shape {tuple(self.magnitude.shape)} are not those of {up[0]} rows")

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to this weight (out, in, ...), in at least float32.

        Raises:
            ValueError: a weight of another shape.
        """
        if (self.up.shape[0], *self.down.shape[1:]) != weight.shape:
            shapes = f"{tuple(self.up.shape)} and {tuple(self.down.shape)}"
            raise ValueError(f"an adapter of shapes {shapes} does not fit a weight of shape {tuple(weight.shape)}")
        dtype = torch.promote_types(weight.dtype, torch.float32)
        down, up = (part.to(weight.device, dtype).flatten(1) for part in (self.down, self.up))
        product = (up @ down * (self.alpha / self.rank)).view(weight.shape)
        if self.magnitude is None:
            return product
        summed = (weight.to(dtype) + product).flatten(1)
        lengths = self.magnitude.to(weight.device, dtype).flatten() / torch.linalg.vector_norm(summed, dim=1)
        return (summed * lengths[:, None]).view(weight.shape) - weight


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    return any(".lora_A." in name for name in state)


def from_run(state: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """The adapters in a run's weights, whose names are those of the training module."""
    own = {name.replace(".default", ""): tensor for name, tensor in state.items() if ".lora_" in name}
    own = {name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor for name, tensor in own.items()}
    alphas = {name.removesuffix(DOWN) + ALPHA: torch.tensor(float(alpha)) for name in own if name.endswith(DOWN)}
    flat = {name: tensor.flatten() if name.endswith(MAGNITUDE) else tensor for name, tensor in own.items()}
    return flat | alphas


def layers(adapter: Mapping[str, Tensor]) -> dict[str, Layer]:
    """By the layers' names.

    Raises:
        ValueError: tensors that belong to no adapter, half of one, or shapes that do not go together.
    """
    found = {name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN)}
    known = {name + part for name in found for part in (DOWN, UP, ALPHA, MAGNITUDE)}
    wrong = sorted(adapter.keys() - known) + sorted(name + UP for name in found if name + UP not in adapter)
    if wrong:
        raise ValueError(f"these are not pairs of LoRA's matrices: {', '.join(wrong[:3])}{', …' if len(wrong) > 3 else ''}")
    made = {}
    for name in sorted(found):
        try:
            alpha = float(adapter[name + ALPHA] if name + ALPHA in adapter else len(adapter[name + DOWN]))
            made[name] = Layer(adapter[name + DOWN], adapter[name + UP], alpha, adapter.get(name + MAGNITUDE))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return made


def tensors(adapters: Mapping[str, Layer]) -> dict[str, Tensor]:
    """`layers` undone."""
    found: dict[str, Tensor] = {}
    for name, layer in adapters.items():
        found |= {name + DOWN: layer.down, name + UP: layer.up, name + ALPHA: torch.tensor(layer.alpha)}
        if layer.magnitude is not None:
            found[name + MAGNITUDE] = layer.magnitude
    return found


@dataclass(frozen=True)
class Weighed:
    """An adapter's tensors, the factor of what they add, and where they are from."""

    tensors: Mapping[str, Tensor]
    factor: float
    told: str


def merged(weights: Mapping[str, Tensor], adapters: Sequence[Weighed]) -> dict[str, Tensor]:
    """The weights that change, with the sum of what each adapter adds to them as they are.

    Args:
        weights: of the layers, by names that end in `weight`, after a dot or, of attention's `in_proj`, an underscore.

    Raises:
        ValueError: an adapter of a layer that there is not, or of another shape.
    """
    changes: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, layer in layers(adapter.tensors).items():
            weight = next((name + end for end in (".weight", "_weight") if name + end in weights), None)
            if weight is None:
                raise ValueError(f"{adapter.told} has an adapter of {name}, and there is no such layer here")
            try:
                change = layer.change(weights[weight].detach()) * adapter.factor
            except ValueError as error:
                raise ValueError(f"{adapter.told}: {name}: {error}") from error
            changes[weight] = changes[weight] + change if weight in changes else change
    return {name: (weights[name].detach() + change).to(weights[name].dtype) for name, change in changes.items()}
