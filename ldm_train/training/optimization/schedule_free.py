"""AdamW without an LR schedule (Defazio et al. 2024, arXiv 2405.15682).

    y = (1 - beta) z + beta x        where the gradient is computed: the parameters
    z <- z - lr (gradient / sqrt(second moment) + weight_decay y)
    x <- (1 - c) x + c z             the average, which is validated, drawn with and exported

The library keeps y and z, from which x = y + (1 - 1 / beta) (z - y).
"""

from collections.abc import Sequence

import torch
from pytorch_optimizer import ScheduleFreeAdamW
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from ldm_train.training.optimization.weight_averaging import WeightAveraging


class ScheduleFree(ScheduleFreeAdamW, WeightAveraging):
    """The library's optimizer, that also writes its average elsewhere instead of over the parameters.

    Its own `eval()` and `train()` would return to other bits of y than they started from.

    Args:
        betas: the share of x in y, and the decay rate of the second moment.
        r: how much more later steps count in the average, in proportion to step^r.
        weight_lr_power: how much less the steps of the warm-up count, in proportion to rate^weight_lr_power.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        powers = {"r": r, "weight_lr_power": weight_lr_power}
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, **powers)

    @torch.no_grad()
    def write_averages(self, weights: Sequence[nn.Parameter], averages: list[Tensor]) -> None:
        here = [weight.detach().to(average.device) for weight, average in zip(weights, averages, strict=True)]
        torch._foreach_lerp_(averages, here, 1.0)  # a copy; sharded tensors have no _foreach_copy_
        places = {parameter: number for number, parameter in enumerate(weights)}
        for group in self.param_groups:
            stepped = [p for p in group["params"] if "z" in self.state.get(p, {})]
            if stepped:
                kept = [averages[places[p]] for p in stepped]
                ends = [self.state[p]["z"].to(average.device) for p, average in zip(stepped, kept, strict=True)]
                torch._foreach_lerp_(kept, ends, 1 - 1 / group["betas"][0])
