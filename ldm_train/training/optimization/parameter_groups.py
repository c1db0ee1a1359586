"""Which parameters share a rate and a weight decay: named parameters to the groups that an optimizer takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from torch import nn

TEXT_ENCODER = "text_encoder."  # the names of its parameters in a training module begin so


class Group(TypedDict, total=False):
    """Parameters, and what they have of their own in place of the optimizer's settings."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class ParameterGroups:
    """No decay of norms and biases, another rate for the text encoder.

    Weight decay is for the weights of products, not for gains and offsets (He et al. 2018, arXiv 1812.01187, section 3.1).
    These are told by their shape: whatever has fewer than two dimensions does not decay, embeddings do.

    Args:
        decay_norms_and_biases: give them the optimizer's weight decay too.
        text_encoder_lr: the text encoder's base rate, which the LR schedule multiplies as it does the optimizer's; None for
            the optimizer's.

    Raises:
        ValueError: a rate that is no number above 0.
    """

    decay_norms_and_biases: bool = False
    text_encoder_lr: float | None = None

    def __post_init__(self) -> None:
        rate = self.text_encoder_lr
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < float("inf")):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={rate} must be a number above 0, or null for the optimizer's own; "
                "a text encoder that is not to be trained is frozen by text_encoder.trained=false"
            )

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[Group]:
        """Groups of the trained ones among named parameters, in the order of these.

        The network and all that shares its rate come first, then the text encoder where it has its own; within each, what
        decays comes first. Groups without a parameter are left out.
        """
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        groups: list[Group] = []
        for own_rate in (False, True):
            for decays in (True, False):
                params = [p for name, p in trained if (self._own_rate(name), self._decays(p)) == (own_rate, decays)]
                group = Group(params=params)
                if own_rate and self.text_encoder_lr is not None:
                    group["lr"] = self.text_encoder_lr
                if not decays:
                    group["weight_decay"] = 0.0
                groups += [group] if params else []
        return groups

    def check(self, text_encoder: nn.Module) -> None:
        """Refuse a rate for a text encoder that is not trained.

        Raises:
            ValueError: none of its parameters is.
        """
        if self.text_encoder_lr is not None and not any(p.requires_grad for p in text_encoder.parameters()):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={self.text_encoder_lr} is a rate for a text encoder that is frozen; "
                "set parameter_groups.text_encoder_lr=null, or train it along with text_encoder.trained=true"
            )

    def _own_rate(self, name: str) -> bool:
        return self.text_encoder_lr is not None and name.startswith(TEXT_ENCODER)

    def _decays(self, parameter: nn.Parameter) -> bool:
        return self.decay_norms_and_biases or parameter.ndim >= 2


DEFAULT = ParameterGroups()
ALIKE = ParameterGroups(decay_norms_and_biases=True)  # one group of all
