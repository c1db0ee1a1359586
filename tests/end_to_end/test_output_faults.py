"""What cannot be read or written is named with its path: prompts in another encoding, half a picture, a full disk."""

import errno
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_train.assembly.trainer import trainer_options
from ldm_train.settings.schema.options import TrainerSettings
from ldm_train.util import files

DRAW = ["prompts=[a]", "steps=1", "device=cpu"]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["sample", *DRAW, "out={out}"], "pictures.json"),
        (["report", "out={out}/page.html"], "page.html"),
        (["evaluate", "features=null", "device=cpu", "out={out}/measured.json"], "measured.md"),
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_is_named_by_the_file(
    words: list[str], written: str, trained: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refuse(path: Path) -> None:
        if out in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "flush_file", refuse)
    answer = ldm_train(words[0], f"run_dir={trained}", *(word.format(out=out) for word in words[1:]))
    assert answer.code == 1
    assert str(out / written) in answer.err
    assert "Traceback" not in answer.err


def test_prompts_in_another_encoding_are_named(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("ein Käse\n".encode("latin-1"))
    for verb, out in (("sample", tmp_path / "out"), ("evaluate", tmp_path / "out.json")):
        answer = ldm_train(verb, f"run_dir={trained}", f"prompts={prompts}", "steps=1", f"out={out}", "device=cpu")
        assert answer.code == 1
        assert str(prompts) in answer.err
        assert "0xe4" in answer.err


def test_half_a_picture_is_named(pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("circle-red.png", "circle-blue.png", "square-red.png", "square-blue.png"):
        shutil.copy(pictures / name, folder / name)
    half = folder / "circle-blue.png"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    answer = ldm_train("evaluate", f"pictures={folder}", f"real={pictures}", f"out={tmp_path / 'a.json'}", "device=cpu")
    assert answer.code == 1
    assert str(half) in answer.err


def test_buffers_are_left_alone_by_the_name_that_torch_has() -> None:
    strategy = trainer_options(TrainerSettings(strategy="ddp", devices=2))["strategy"]
    arguments = strategy._ddp_kwargs  # type: ignore[attr-defined]
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    assert ("broadcast_buffers" in arguments) is ("forward_sync_buffers" not in known)
    assert {name: value for name, value in arguments.items() if name.endswith("buffers")}.popitem()[1] is False


@pytest.mark.slow
def test_examples_are_searched_for_in_rows_without_gaps(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or torch copies them at each call, and warns of it."""
    search, whole = torch.searchsorted, []

    def watched(rows: Tensor, values: Tensor, *, right: bool = False) -> Tensor:
        whole.append((rows.is_contiguous(), values.is_contiguous()))
        return search(rows, values, right=right)

    monkeypatch.setattr(torch, "searchsorted", watched)
    answer = train(cache, tmp_path / "run", "max_steps=2", "pictures.prompts=[]", "validation.examples=2")
    assert answer.code == 0, answer.err
    assert set(whole) == {(True, True)}
