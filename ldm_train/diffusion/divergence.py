"""Say why pictures are not finite, by the weights that drew them."""

from collections.abc import Iterable

from torch import nn

USUAL_WEIGHT = 1e4  # larger weights are a sign of divergence


def describe_divergence(parts: Iterable[object]) -> str:
    """Return the likely cause of pictures that are not finite.

    Args:
        parts: the network and what else has weights.
    """
    for module in parts:
        for name, weight in module.named_parameters() if isinstance(module, nn.Module) else ():
            largest = weight.detach().abs().max().item() if weight.numel() else 0.0
            if not largest < USUAL_WEIGHT:  # True for NaN too
                return (
                    f"{type(module).__name__}'s weight {name} has values up to {largest:g}; the run diverged, or a "
                    "factor in adapters=… is too large"
                )
    return (
        "the weights are of usual size; lower guidance.scale and the factors in adapters=…, try weights=raw or more "
        "steps, or compute in float32"
    )
