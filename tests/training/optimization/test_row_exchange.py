"""Exchanging the touched rows of an embedding gives the gradient that DDP gives by exchanging all rows."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from ldm_train.conditioners.new_tokens import ExtendedEmbedding
from ldm_train.training.optimization.row_exchange import MIN_VALUES, exclude_embeddings

LARGE = (MIN_VALUES // 16, 16)
PROGRAM = Path(__file__).with_name("rows_on_ranks.py")


def ddp(device: str = "cpu") -> Any:
    return DDPStrategy(accelerator=SimpleNamespace(), parallel_devices=[torch.device(device)])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_equal_those_of_exchanging_all_rows(count: int, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), str(count), tmp_path / "store"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(count)
    ]  # fmt: skip
    for process in processes:
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said


def test_large_trained_embeddings_are_excluded() -> None:
    large, small, frozen = nn.Embedding(*LARGE), nn.Embedding(4, 16), nn.Embedding(*LARGE).requires_grad_(False)
    extended = ExtendedEmbedding(nn.Embedding(*LARGE), [0, 1])
    module = nn.ModuleDict({"large": large, "small": small, "frozen": frozen, "extended": extended, "out": nn.Linear(2, 2)})
    module["sparse"] = nn.Embedding(*LARGE, sparse=True)  # DDP exchanges only the rows of such a gradient itself
    assert exclude_embeddings(module, ddp()) == [large.weight, extended.weight]
    assert module._ddp_params_and_buffers_to_ignore == ["large.weight", "extended.weight"]


def test_a_tied_embedding_is_excluded_under_all_its_names() -> None:
    module = nn.Sequential(nn.Embedding(*LARGE), nn.Linear(16, LARGE[0]))
    module[1].weight = module[0].weight
    assert exclude_embeddings(module, ddp()) == [module[0].weight]
    assert module._ddp_params_and_buffers_to_ignore == ["0.weight", "1.weight"]


def test_nothing_is_excluded_on_a_gpu_or_if_ddp_would_keep_nothing() -> None:
    assert exclude_embeddings(nn.Sequential(nn.Embedding(*LARGE), nn.Linear(2, 2)), ddp("cuda:0")) == []
    only = nn.Sequential(nn.Embedding(*LARGE))
    assert exclude_embeddings(only, ddp()) == []
    assert not hasattr(only, "_ddp_params_and_buffers_to_ignore")
