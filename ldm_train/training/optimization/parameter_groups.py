"""Parameter groups: which parameters share a learning rate, a weight decay, and Muon or AdamW."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypedDict

from torch import nn

from ldm_train.util.text import nearest

TEXT_ENCODER_PREFIX = "text_encoder."  # start of the names of its parameters in a training module


class ParameterGroup(TypedDict, total=False):
    """Parameters, and the settings in which they differ from the optimizer's.

    `lr_factor` multiplies the group's rate once the optimizer is built. `use_muon` is for Muon only.
    """

    params: list[nn.Parameter]
    lr: float
    lr_factor: float
    weight_decay: float
    use_muon: bool


@dataclass(frozen=True)
class ParameterGroups:
    """No weight decay for norms and biases, and other learning rates for the text encoder or by the parameters' names.

    Weight decay is for weights that multiply, not for gains and biases (He et al. 2018, arXiv 1812.01187, section 3.1). The
    shape decides: parameters with fewer than two dimensions do not decay; embeddings do.

    Args:
        decay_norms_and_biases: give them the optimizer's weight decay too.
        text_encoder_lr: the text encoder's base rate, also multiplied by the LR schedule; None for the optimizer's rate.
        rates: factors of the base rate by patterns of names, such as `{"network.down.*": 0.5}`; the first pattern that
            matches a name counts.
        adamw_for: patterns of names that Muon leaves to AdamW, next to all parameters with fewer than two dimensions; None
            for an optimizer that treats all parameters alike.

    Raises:
        ValueError: a rate is no number above 0.
    """

    decay_norms_and_biases: bool = False
    text_encoder_lr: float | None = None
    rates: Mapping[str, float] | None = None
    adamw_for: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if (rate := self.text_encoder_lr) is not None and not _is_positive(rate):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={rate} must be a number above 0, or null for the optimizer's rate; "
                "to freeze the text encoder set text_encoder.trained=false"
            )
        for pattern, factor in (self.rates or {}).items():
            if not _is_positive(factor):
                raise ValueError(f"parameter_groups.rates={{{pattern}:{factor}}} must be a factor of optimizer.lr above 0")

    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
        """Return the groups of the trained ones among named parameters, each in the parameters' order.

        First come the network and everything with its rate, then what a pattern gives another one, then the text encoder if
        it has another rate; within each, parameters with weight decay come first. Groups without parameters are left out.
        """
        groups: dict[tuple[int, ...], ParameterGroup] = {}
        for name, parameter in parameters:
            if parameter.requires_grad:
                place, group = self._describe(name, parameter)
                groups.setdefault(place, group)["params"].append(parameter)
        return [groups[place] for place in sorted(groups)]

    def check(self, names: Iterable[str], text_encoder: nn.Module) -> None:
        """Raise if there is a rate for something that is not trained.

        Args:
            names: of all trained parameters.

        Raises:
            ValueError: the text encoder is frozen, or a pattern matches no name, or none that earlier patterns leave.
        """
        if self.text_encoder_lr is not None and not any(p.requires_grad for p in text_encoder.parameters()):
            raise ValueError(
                f"parameter_groups.text_encoder_lr={self.text_encoder_lr} is set, but the text encoder is frozen; "
                "set parameter_groups.text_encoder_lr=null, or train it with text_encoder.trained=true"
            )
        names = list(names)
        used = {next((pattern for pattern in self.rates or () if fnmatchcase(name, pattern)), None) for name in names}
        for pattern in self.rates or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"parameter_groups.rates has the pattern {pattern!r}, which matches the name of no trained parameter"
                    f"{nearest(pattern, _list_patterns(names))}; names are such as {names[0]}"
                )
            if pattern not in used:
                raise ValueError(
                    f"parameter_groups.rates has the pattern {pattern!r}, but earlier patterns match all of its parameters, "
                    f"and the first that matches counts; put {pattern!r} before them"
                )

    def _describe(self, name: str, parameter: nn.Parameter) -> tuple[tuple[int, ...], ParameterGroup]:
        """Return the place of a parameter's group among the groups, and the group without its parameters."""
        group = ParameterGroup(params=[])
        own_rate = self.text_encoder_lr is not None and name.startswith(TEXT_ENCODER_PREFIX)
        decays = self.decay_norms_and_biases or parameter.ndim >= 2
        place = next((n for n, p in enumerate(self.rates or (), start=1) if fnmatchcase(name, p)), 0)
        by_adamw = parameter.ndim < 2 or any(fnmatchcase(name, pattern) for pattern in self.adamw_for or ())
        if own_rate and self.text_encoder_lr is not None:
            group["lr"] = self.text_encoder_lr
        if place and self.rates:
            group["lr_factor"] = list(self.rates.values())[place - 1]
        if not decays:
            group["weight_decay"] = 0.0
        if self.adamw_for is not None:
            group["use_muon"] = not by_adamw
        return (own_rate, place, not decays, self.adamw_for is not None and by_adamw), group


def _is_positive(rate: object) -> bool:
    return isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < float("inf")


def _list_patterns(names: Iterable[str]) -> list[str]:
    """Return the patterns of all modules that have a parameter of these names, and the names."""
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}
    return sorted(modules | {".".join(part) for part in parts})


DEFAULT_GROUPS = ParameterGroups()
SINGLE_GROUP = ParameterGroups(decay_norms_and_biases=True)
