"""Run the optimizer within the backward pass, parameter by parameter, so that never all gradients are in memory at once."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_train.training.optimization.gradients import skip_step


class FusedBackward:
    """Step on each parameter as soon as its gradient is complete, then free the gradient (Lv et al. 2023, arXiv 2306.09782).

    The norm of all gradients is known only after all steps, too late to clip by it. A parameter whose gradient is not
    finite keeps its value, but the others do not. Gradients cannot be accumulated over several backward passes or averaged
    over devices.
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
        """Return the norm of all gradients since the last call, ()."""
        norms, self._norms = self._norms, []
        return torch.stack(norms).norm() if norms else torch.zeros((), device=device)

    def remove(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _step(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        norm = torch.linalg.vector_norm(parameter.grad)
        self._norms.append(norm)
        optimizer, groups = self.optimizer, self.optimizer.param_groups
        skip_step(optimizer, [parameter], applied=norm.isfinite().float())
        optimizer.param_groups = [groups[self._groups[parameter]] | {"params": [parameter]}]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups = groups
        parameter.grad = None
