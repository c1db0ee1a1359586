"""Write checkpoints while training goes on: copy the state, which training waits for, and write the copy in a thread."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, UntypedStorage

from ldm_train.training.checkpoints.sharded_checkpoint import Keys, Tree, mapped


class BackgroundWriter:
    """Write one checkpoint at a time in a thread. Python waits for the thread before it exits."""

    def __init__(self) -> None:
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def start(self, checkpoint: Tree, write: Callable[[Tree], None], *, then: Callable[[], None]) -> None:
        """Copy a checkpoint, and return while the copy is written; the checkpoint may change from then on.

        Args:
            then: called in the thread after the copy was written.
        """
        assert self._writing is None, "its memory is still being read"
        copied = self._copies.copy(checkpoint)

        def write_copy() -> None:
            write(copied)
            then()

        self._writing = self._thread.submit(write_copy)

    def finish(self, *, wait: bool) -> bool:
        """Return whether the thread has ended its work since this was asked last; raise what it raised.

        Args:
            wait: until it has.
        """
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return False
        writing.exception()  # waits; where a signal interrupts that, the work is still there to be waited for
        self._writing = None
        writing.result()
        return True


class HostCopies:
    """Copy trees of tensors to the CPU's memory, each into the memory of the one before.

    Whole storages are copied, so that tensors that share one still do, and a file of the copy is as large as one of the
    original. What comes from a GPU goes to pinned memory, several times as fast as to other memory.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[int, bool], list[UntypedStorage]] = {}  # by size, and whether it is pinned

    def copy(self, tree: Tree) -> Tree:
        """Return a copy, which the next call overwrites."""
        spare, self._memory = self._memory, {}
        copies: dict[int, UntypedStorage] = {}  # by the address of the original's storage object

        def copy_leaf(keys: Keys, leaf: Tree) -> Tree:
            if type(leaf) is not Tensor or leaf.layout != torch.strided or leaf.is_conj() or leaf.is_neg():
                return copy.deepcopy(leaf)
            storage = leaf.untyped_storage()
            if storage._cdata not in copies:
                kind = (storage.nbytes(), storage.is_cuda)
                memory = spare[kind].pop() if spare.get(kind) else new_memory(*kind)
                self._memory.setdefault(kind, []).append(memory)
                copies[storage._cdata] = memory.copy_(storage, non_blocking=storage.is_cuda)
            place = copies[storage._cdata]
            return torch.empty(0, dtype=leaf.dtype).set_(place, leaf.storage_offset(), leaf.size(), leaf.stride())

        copied = mapped(tree, copy_leaf)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return copied


def new_memory(size: int, pinned: bool) -> UntypedStorage:
    """Return memory of so many bytes, whatever is in it.

    Raises:
        ValueError: there is not so much.
    """
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
    except RuntimeError as error:
        raise ValueError(
            f"the CPU's memory has no room for a copy of the checkpoint, of which {size} bytes were to be taken next; "
            "set checkpoint.background=false"
        ) from error
