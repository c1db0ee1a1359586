"""Low-rank adapters as named tensors, and merging them into weights.

LoRA (Hu et al. 2021, arXiv 2106.09685): W + alpha / r B A. DoRA (Liu et al. 2024, arXiv 2402.09353) then scales each row to
the norm in the magnitude vector. A layer NAME has the tensors `NAME.lora_A.weight` (r, in, ...), `NAME.lora_B.weight`
(out, r, ...), `NAME.alpha` () and, in DoRA, `NAME.lora_magnitude_vector` (out,).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.util.text import list_names

DOWN, UP, ALPHA, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".alpha", ".lora_magnitude_vector"


@dataclass(frozen=True)
class LowRankLayer:
    """The adapter of one layer.

    Args:
        down: A, (r, in, ...).
        up: B, (out, r, ...).
        magnitude: DoRA's norms of the rows, (out,); None without DoRA.

    Raises:
        ValueError: the shapes do not fit together.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    def __post_init__(self) -> None:
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if min(len(down), len(up)) < 2 or not 0 < down[0] == up[1] or any(side != 1 for side in up[2:]):
            raise ValueError(f"matrices of shapes {down} and {up} are not a pair of LoRA matrices")
        if self.magnitude is not None and self.magnitude.numel() != up[0]:
            raise ValueError(f"DoRA's magnitudes have the shape {tuple(self.magnitude.shape)}; expected {up[0]} values")

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def change(self, weight: Tensor) -> Tensor:
        """Return what the adapter adds to this weight (out, in, ...), in float32 or wider.

        Raises:
            ValueError: the weight has another shape.
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


def extract_adapter(state: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """Return the adapter in the weights of a run, as its training module names them."""
    own = {name.replace(".default", ""): tensor for name, tensor in state.items() if ".lora_" in name}
    own = {name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor for name, tensor in own.items()}
    alphas = {name.removesuffix(DOWN) + ALPHA: torch.tensor(float(alpha)) for name in own if name.endswith(DOWN)}
    flat = {name: tensor.flatten() if name.endswith(MAGNITUDE) else tensor for name, tensor in own.items()}
    return flat | alphas


def group_layers(adapter: Mapping[str, Tensor]) -> dict[str, LowRankLayer]:
    """Return the adapter of each layer by the layer's name.

    Raises:
        ValueError: a tensor belongs to no adapter, a matrix is missing, or shapes do not fit together.
    """
    found = {name.removesuffix(DOWN) for name in adapter if name.endswith(DOWN)}
    known = {name + part for name in found for part in (DOWN, UP, ALPHA, MAGNITUDE)}
    wrong = sorted(adapter.keys() - known) + sorted(name + UP for name in found if name + UP not in adapter)
    if wrong:
        raise ValueError(f"these are not pairs of LoRA matrices: {list_names(wrong, most=3)}")
    grouped = {}
    for name in sorted(found):
        try:
            alpha = float(adapter[name + ALPHA] if name + ALPHA in adapter else len(adapter[name + DOWN]))
            grouped[name] = LowRankLayer(adapter[name + DOWN], adapter[name + UP], alpha, adapter.get(name + MAGNITUDE))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return grouped


def flatten_layers(adapters: Mapping[str, LowRankLayer]) -> dict[str, Tensor]:
    """Return the tensors of adapters by name, the reverse of `group_layers`."""
    found: dict[str, Tensor] = {}
    for name, layer in adapters.items():
        found |= {name + DOWN: layer.down, name + UP: layer.up, name + ALPHA: torch.tensor(layer.alpha)}
        if layer.magnitude is not None:
            found[name + MAGNITUDE] = layer.magnitude
    return found


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter's tensors, the factor that its change is multiplied by, and where it is from, for messages."""

    tensors: Mapping[str, Tensor]
    factor: float
    source: str


def merge_adapters(weights: Mapping[str, Tensor], adapters: Sequence[WeightedAdapter]) -> dict[str, Tensor]:
    """Return the weights that adapters change, with the sum of the changes; each change is that of the original weight.

    Args:
        weights: the layers' weights, by names that end in `.weight` or (attention's `in_proj`) in `_weight`.

    Raises:
        ValueError: an adapter has a layer that does not exist, or fits another shape.
    """
    changes: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, layer in group_layers(adapter.tensors).items():
            weight = next((name + end for end in (".weight", "_weight") if name + end in weights), None)
            if weight is None:
                raise ValueError(f"{adapter.source} has an adapter of the layer {name}, which this run does not have")
            try:
                change = layer.change(weights[weight].detach()) * adapter.factor
            except ValueError as error:
                raise ValueError(f"{adapter.source}: {name}: {error}") from error
            changes[weight] = changes[weight] + change if weight in changes else change
    return {name: (weights[name].detach() + change).to(weights[name].dtype) for name, change in changes.items()}
