"""Shard parameters, gradients, averages and optimizer states over the processes (FSDP2).

Each process holds a part of every tensor. What a module computes does not change: a block's parameters are gathered while it
runs. Sharded tensors are `DTensor`s, which optimizers, norms and averages accept like others.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import empty as empty_dtensor

from ldm_train.training.checkpoints.sharded_checkpoint import Keys, Tree, mapped, new_folder, whole, write_shares


def shard_modules(parts: Iterable[object], mesh: DeviceMesh) -> None:
    """Shard those of the parts that have something to train, in place, over all processes of a mesh.

    The layers in every part's lists are gathered one at a time, its other parameters together.
    """
    everywhere = init_device_mesh(mesh.device_type, (mesh.size(),))
    for part in parts:
        if not isinstance(part, nn.Module) or isinstance(part, FSDPModule):
            continue
        if not any(p.requires_grad for p in part.parameters()):
            continue
        # Reshard the root too: parameters that stayed gathered after a forward pass would miss that weights were swapped.
        for module in (*iterate_list_layers(part), part):
            fully_shard(module, mesh=everywhere, reshard_after_forward=True)
        if callable(getattr(part, "loss", None)):
            register_fsdp_forward_method(part, "loss")  # a weighting is called by this method, not by `forward`


def iterate_list_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of a module's outermost lists that have parameters."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from iterate_list_layers(child)


def shard_like(tensor: Tensor, sharded: DTensor) -> DTensor:
    """Return a full tensor, which every process has, sharded like another one."""
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for a module that shards itself in `configure_model`, with this project's checkpoint formats.

    A checkpoint is either one file, as with any other strategy, gathered by process 0 tensor by tensor, or one share
    written by each process. Any number of processes can read either, with this strategy or another.

    Args:
        shares: write checkpoints in shares.
        timeout: how long processes wait for each other; None for torch's default.
    """

    def __init__(self, *, shares: bool = False, timeout: timedelta | None = None) -> None:
        super().__init__(timeout=timeout or default_pg_timeout)
        self.shares = shares

    # Lightning's methods for plain strategies are right for DTensors too, and keep their sharding.
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
            Strategy.save_checkpoint(self, self.gathered(checkpoint), filepath, storage_options)

    def gathered(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return the checkpoint with every tensor in full and on the CPU; only process 0 gets all of it."""

        def gather(keys: Keys, leaf: Tree) -> Tree:
            if not isinstance(leaf, DTensor):
                return leaf
            full: Tensor = leaf.full_tensor().detach()
            return full.cpu() if self.is_global_zero else None

        return {key: mapped(value, gather, (key,)) for key, value in checkpoint.items()}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, in shares or one file, with its tensors sharded like the parameters that they belong to."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert self.lightning_module is not None
        named = dict(self.lightning_module.named_parameters())
        example = next(p for p in named.values() if isinstance(p, DTensor))
        empty = partial(empty_dtensor, device_mesh=example.device_mesh, placements=example.placements)

        def distribute(keys: Keys, leaf: Tree) -> Tree:
            parameter = self._parameter(keys, named)
            fits = isinstance(leaf, Tensor) and isinstance(parameter, DTensor) and leaf.shape == parameter.shape
            return shard_like(leaf, parameter) if fits and not isinstance(leaf, DTensor) else leaf  # type: ignore[arg-type]

        checkpoint = whole(checkpoint, path, empty)
        return {key: mapped(value, distribute, (key,)) for key, value in checkpoint.items()}

    def _parameter(self, keys: Keys, named: Mapping[str, nn.Parameter]) -> nn.Parameter | None:
        """Return the parameter of a tensor at these keys of a checkpoint, by its name or its place in an optimizer."""
        match keys:
            case ("optimizer_states", int(number), "state", int(place), _):
                return [p for group in self.optimizers[number].param_groups for p in group["params"]][place]
            case (*_, str(name)):
                return named.get(name)
        return None
