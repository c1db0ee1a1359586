"""The optimizer's step within the backward pass, parameter by parameter: never are all gradients in memory at once."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_train.training.optimization.gradients import leave_out


class FusedBackward:
    """Steps on each parameter as soon as its gradient is whole, and frees that (Lv et al. 2023, arXiv 2306.09782).

    The norm of all gradients is known only when all steps are done: too late to clip by it. A parameter whose gradient is
    not finite stays as it was; the others don't. Gradients of several backward passes cannot be summed, nor over devices.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._norms: list[Tensor] = []
        self._hooks = []
        self._groups: dict[nn.Parameter, int] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                self._groups[parameter] = number
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._step))

    def norm(self, device: torch.device) -> Tensor:
        """Of all gradients since the last call, ()."""
        norms, self._norms = self._norms, []
        return torch.stack(norms).norm() if norms else torch.zeros((), device=device)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _step(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        norm = torch.linalg.vector_norm(parameter.grad)
        self._norms.append(norm)
        optimizer, groups = self.optimizer, self.optimizer.param_groups
        leave_out(optimizer, [parameter], applied=norm.isfinite().float())
        optimizer.param_groups = [groups[self._groups[parameter]] | {"params": [parameter]}]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
        parameter.grad = None
