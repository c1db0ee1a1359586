"""Parameter groups: which parameters share a learning rate and a weight decay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from torch import nn

TEXT_ENCODER_PREFIX = "text_encoder."  # start of the names of its parameters in a training module


class ParameterGroup(TypedDict, total=False):
    """Parameters, and the settings in which they differ from the optimizer's."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class ParameterGroups:
    """No weight decay for norms and biases, and another learning rate for the text encoder.

    Weight decay is for weights that multiply, not for gains and biases (He et al. 2018, arXiv 1812.01187, section 3.1). The
    shape decides: parameters with fewer than two dimensions do not decay; embeddings do.

    Args:
        decay_norms_and_biases: give them the optimizer's weight decay too.
        text_encoder_lr: the text encoder's base rate, also multiplied by the LR schedule; None for the optimizer's rate.

    Raises:
        ValueError: the rate is no number above 0.
    """

    decay_norms_and_biases: bool = False
    text_encoder_lr: float | None = None

    def __post_init__(self) -> None:
        rate = self.text_encoder_lr
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < float("inf")):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={rate} must be a number above 0, or null for the optimizer's rate; "
                "to freeze the text encoder set text_encoder.trained=false"
            )

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
        """Return the groups of the trained ones among named parameters, each in the parameters' order.

        First come the network and everything with its rate, then the text encoder if it has another rate; within each,
        parameters with weight decay come first. Groups without parameters are left out.
        """
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        groups: list[ParameterGroup] = []
        for other_rate in (False, True):
            for decays in (True, False):
                params = [p for name, p in trained if (self._has_other_rate(name), self._decays(p)) == (other_rate, decays)]
                group = ParameterGroup(params=params)
                if other_rate and self.text_encoder_lr is not None:
                    group["lr"] = self.text_encoder_lr
                if not decays:
                    group["weight_decay"] = 0.0
                groups += [group] if params else []
        return groups

    def check(self, text_encoder: nn.Module) -> None:
        """Raise if there is a rate for a text encoder that is not trained.

        Raises:
            ValueError: the text encoder is frozen.
        """
        if self.text_encoder_lr is not None and not any(p.requires_grad for p in text_encoder.parameters()):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={self.text_encoder_lr} is set, but the text encoder is frozen; "
                "set parameter_groups.text_encoder_lr=null, or train it with text_encoder.trained=true"
            )

    def _has_other_rate(self, name: str) -> bool:
        return self.text_encoder_lr is not None and name.startswith(TEXT_ENCODER_PREFIX)

    def _decays(self, parameter: nn.Parameter) -> bool:
        return self.decay_norms_and_biases or parameter.ndim >= 2


DEFAULT_GROUPS = ParameterGroups()
SINGLE_GROUP = ParameterGroups(decay_norms_and_biases=True)
