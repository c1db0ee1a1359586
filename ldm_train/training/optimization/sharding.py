"""Parameters, gradients, averages and optimizer states shared out over the processes (FSDP2): each holds its part of all.

What a module computes is as before: the parameters of a block are gathered for as long as it works. Sharded tensors are
`DTensor`s, which optimizers, norms and averages take as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import empty as empty_dtensor

from ldm_train.training.checkpoints.sharded_checkpoint import Keys, Tree, mapped, new_folder, whole, write_shares


def shard(parts: Iterable[object], mesh: DeviceMesh) -> None:
    """Share out in place, over all processes of a mesh, the parts that have something to train; the others stay as they are.

    The layers of every part's lists are gathered one at a time, the rest of it at once.
    """
    everywhere = init_device_mesh(mesh.device_type, (mesh.size(),))
    for part in parts:
        if not isinstance(part, nn.Module) or isinstance(part, FSDPModule):
            continue
        if not any(p.requires_grad for p in part.parameters()):
            continue
        # A root too gives its parameters back after a forward pass: left gathered, they would not see the weights swapped.
        for module in (*layers(part), part):
            fully_shard(module, mesh=everywhere, reshard_after_forward=True)
        if callable(getattr(part, "loss", None)):
            register_fsdp_forward_method(part, "loss")  # a weighting is called by this name


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of a module's outermost lists, those that have parameters."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from layers(child)


def is_sharded(module: nn.Module) -> bool:
    """Whether every forward pass needs all processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def swap(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Put a value in a parameter's place, and give what was there.

    A sharded parameter is gathered from memory of its own, which is therefore overwritten.
    """
    if isinstance(parameter, DTensor):
        before: Tensor = parameter.detach().clone()
        parameter.detach().copy_(value)
        return before
    before, parameter.data = parameter.data, value
    return before


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor; of a sharded one every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, sharded: DTensor) -> DTensor:
    """A whole tensor that every process has, shared out as another is."""
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for a module that shards itself in `configure_model`, with this project's checkpoints.

    A checkpoint is one file, as of any other strategy, which process 0 gathers tensor by tensor; or each process writes its
    share. Either is read by any number of processes, of this strategy and of others.

    Args:
        shares: write checkpoints in shares.
    """

    def __init__(self, *, shares: bool = False) -> None:
        super().__init__()
        self.shares = shares

    # A DTensor is saved and loaded as any other: what Lightning does for plain strategies is right, and keeps their layout.
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object = None) -> None:
        if self.shares:
            path = Path(self.broadcast(filepath))
            folder = self.broadcast(new_folder(path) if self.is_global_zero else path)
            Strategy.save_checkpoint(self, write_shares(checkpoint, folder), path)
        else:
            Strategy.save_checkpoint(self, self.gathered(checkpoint), filepath)

    def gathered(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """On process 0, with every tensor whole and on the CPU; what the others get is of no use."""

        def gather(keys: Keys, leaf: Tree) -> Tree:
            if not isinstance(leaf, DTensor):
                return leaf
            full: Tensor = leaf.full_tensor().detach()
            return full.cpu() if self.is_global_zero else None

        return {key: mapped(value, gather, (key,)) for key, value in checkpoint.items()}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint in shares or in one file, its tensors shared out as the parameters that they belong to."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert self.lightning_module is not None
        named = dict(self.lightning_module.named_parameters())
        example = next(p for p in named.values() if isinstance(p, DTensor))
        empty = partial(empty_dtensor, device_mesh=example.device_mesh, placements=example.placements)

        def distribute(keys: Keys, leaf: Tree) -> Tree:
            parameter = self._parameter(keys, named)
            fits = isinstance(leaf, Tensor) and isinstance(parameter, DTensor) and leaf.shape == parameter.shape
            return like(leaf, parameter) if fits and not isinstance(leaf, DTensor) else leaf  # type: ignore[arg-type]

        checkpoint = whole(checkpoint, path, empty)
        return {key: mapped(value, distribute, (key,)) for key, value in checkpoint.items()}

    def _parameter(self, keys: Keys, named: Mapping[str, nn.Parameter]) -> nn.Parameter | None:
        """The parameter that a tensor at these keys of a checkpoint belongs to, by its name or its place in an optimizer."""
        match keys:
            case ("optimizer_states", int(number), "state", int(place), _):
                return [p for group in self.optimizers[number].param_groups for p in group["params"]][place]
            case (*_, str(name)):
                return named.get(name)
        return None
