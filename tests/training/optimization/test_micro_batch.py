"""How many examples a device takes at once: found to fit, kept when continued, reported when they did not."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_train.training.optimization import micro_batch

QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]
AUTO = [*QUIET, "micro_batch_size=auto"]


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(run_dir: Path) -> torch.Tensor:
    state = torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`memory(2.5)`: as if this CPU had room for the average and moments, and for so many examples, and for no more."""
    needs: list[int] = []
    saved = micro_batch.saved_bytes

    def measured(*arguments: Any) -> tuple[int, int]:
        found = saved(*arguments)
        needs[:] = [found[1]]
        return found

    def put(examples: float) -> None:
        monkeypatch.setattr(micro_batch, "saved_bytes", measured)
        monkeypatch.setattr(micro_batch, "_trained_bytes", lambda module: 1000)
        monkeypatch.setattr(
            micro_batch,
            "free_memory",
            lambda device: 1000 * micro_batch.FIRST_STEP_COPIES + examples * needs[0] / micro_batch.CPU_MEMORY_SHARE,
        )

    return put


def size(out: str) -> int:
    found = re.search(r"micro_batch_size=auto found (\d+): (\d+) micro-batches", out)
    assert found
    assert int(found[1]) * int(found[2]) == 12
    return int(found[1])


@pytest.mark.parametrize(("room", "expected"), [(1000, 12), (12, 12), (11.9, 6), (5, 4), (3.5, 3), (2, 2), (1, 1)])
def test_auto_is_the_largest_divisor_of_a_devices_share_that_fits(
    room: float, expected: int, memory: Callable, cache: Path, train: Callable, tmp_path: Path
) -> None:
    memory(room)
    answer = train(cache, tmp_path / "run", *AUTO, "batch_size=12", "max_steps=1")
    assert answer.code == 0, answer.err
    assert size(answer.out) == expected


@pytest.mark.parametrize("room", [0.9, 0, -100])
def test_where_not_even_one_fits_that_is_reported(
    room: float, memory: Callable, cache: Path, train: Callable, tmp_path: Path
) -> None:
    memory(room)
    answer = train(cache, tmp_path / "run", *AUTO)
    assert answer.code == 1
    assert "not even one example fits into the memory of cpu" in answer.err
    assert "network.gradient_checkpointing=true" in answer.err
    assert not (tmp_path / "run").exists()


def test_an_example_is_measured_by_what_a_backward_pass_keeps_of_it(
    memory: Callable, cache: Path, train: Callable, tmp_path: Path
) -> None:
    """Four times the channels are about four times the numbers."""
    found = []
    for words in (["network.channels=[16,32]"], ["network.channels=[64,128]"]):
        taken: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            saved = micro_batch.saved_bytes
            patch.setattr(micro_batch, "saved_bytes", lambda *a, s=saved, t=taken: (t.append(s(*a)[1]), (0, t[-1]))[1])
            assert train(cache, tmp_path / str(len(found)), *AUTO, "max_steps=1", *words).code == 0
        found += taken
    assert 2.5 * found[0] < found[1] < 6 * found[0]


@pytest.mark.parametrize("kind", ["train", "train_autoencoder"])
def test_a_continued_run_keeps_its_size_and_is_the_same_run(
    kind: str,
    memory: Callable,
    cache: Path,
    pictures: Path,
    ldm_train: Callable,
    train_words: list[str],
    autoencoder_settings: list[str],
    power_cut: Callable,
    tmp_path: Path,
) -> None:
    """More memory came along meanwhile, which would have made it another run, to rounding."""
    words = [kind, f"cache={cache}", *train_words, *AUTO, "batch_size=12", "network.dropout=0.1"]
    if kind == "train_autoencoder":
        words = [kind, f"source.path={pictures}", *autoencoder_settings, "micro_batch_size=auto", "batch_size=12"]
    memory(4.5)
    assert ldm_train(*words, f"run_dir={tmp_path / 'whole'}").code == 0
    with power_cut(4):
        ldm_train(*words, f"run_dir={tmp_path / 'cut'}")
    memory(100)
    answer = ldm_train(*words, f"run_dir={tmp_path / 'cut'}")
    assert answer.code == 0, answer.err
    assert size(answer.out) == 4
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_it_changes_rounding_alone(
    memory: Callable, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    memory(1.5)
    assert train(cache, tmp_path / "run", *AUTO).code == 0
    whole = run_with(*QUIET)
    for one, other in zip(lines(tmp_path / "run"), lines(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert (weights(tmp_path / "run") - weights(whole)).norm() < 1e-4 * weights(whole).norm()


def test_the_number_that_auto_found_gives_the_same_bits(
    memory: Callable, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    """Looking for it leaves no trace in the run."""
    memory(2)
    assert train(cache, tmp_path / "run", *AUTO).code == 0
    assert torch.equal(weights(tmp_path / "run"), weights(run_with(*QUIET, "micro_batch_size=2")))


# Out of memory


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`holds(3)`: as if the device ran out of memory with more than so many examples at once."""
    from ldm_train.training.module import NoisePredictorTraining

    original = NoisePredictorTraining.training_step

    def put(most: int) -> None:
        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            if len(batch.positions) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(self, batch, batch_idx)

        monkeypatch.setattr(NoisePredictorTraining, "training_step", step)

    return put


@pytest.mark.parametrize(
    ("most", "words", "had", "advice"),
    [
        (11, [], 12, "micro_batch_size=6 fits, with the same results"),
        (5, [], 12, "micro_batch_size=4 fits, with the same results"),
        (1, ["micro_batch_size=3"], 3, "micro_batch_size=1 fits, with the same results"),
        (0, ["micro_batch_size=2"], 2, "no smaller one fits; try network.gradient_checkpointing=true"),
        (0, ["micro_batch_size=1"], 1, "no smaller one fits; try network.gradient_checkpointing=true"),
    ],
)
def test_running_out_of_memory_is_answered_with_a_size_that_fits(
    most: int, words: list[str], had: int, advice: str, holds: Callable, cache: Path, train: Callable, tmp_path: Path
) -> None:
    holds(most)
    answer = train(cache, tmp_path / "run", *QUIET, "batch_size=12", "max_steps=1", *words)
    assert answer.code == 1
    assert f"cpu ran out of memory with micro_batch_size={had}: {advice}" in answer.err
    assert "Traceback" not in answer.err
    fits = re.search(r"micro_batch_size=(\d+) fits", answer.err)
    if fits:
        again = train(cache, tmp_path / "run", *QUIET, "batch_size=12", "max_steps=1", f"micro_batch_size={fits[1]}")
        assert again.code == 0, again.err


def test_the_advice_is_taken_by_a_run_that_was_under_way(
    holds: Callable, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    """Another process came to take memory; what was trained is kept."""
    run_dir = Path(shutil.copytree(run_with(*QUIET), tmp_path / "run"))
    holds(2)
    assert "micro_batch_size=2 fits" in train(cache, run_dir, *QUIET, "max_steps=10").err
    answer = train(cache, run_dir, *QUIET, "max_steps=10", "micro_batch_size=2")
    assert answer.code == 0, answer.err
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 11))


def test_memory_that_validation_lacked_is_not_blamed_on_the_micro_batch(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.validation import validation_callback

    def fail(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(validation_callback, "measure_losses", fail)
    answer = train(cache, tmp_path / "run", "pictures.prompts=[]", "validation.every=1")
    assert answer.code == 1
    assert "micro_batch_size=4: the step itself fits" in answer.err
    assert "pictures.count" in answer.err


# Words that are no size


@pytest.mark.parametrize(("value", "code"), [("0", 1), ("-1", 1), ("abc", 2), ("1.5", 2), ("true", 2), ("[2]", 2)])
@pytest.mark.parametrize("verb", ["train", "train_autoencoder"])
def test_what_is_no_size_is_refused(
    verb: str,
    value: str,
    code: int,
    cache: Path,
    pictures: Path,
    ldm_train: Callable,
    train_words: list[str],
    tmp_path: Path,
) -> None:
    words = [f"cache={cache}", *train_words] if verb == "train" else [f"source.path={pictures}", "image_size=16"]
    answer = ldm_train(verb, *words, f"run_dir={tmp_path / 'run'}", f"micro_batch_size={value}")
    assert answer.code == code
    assert f"micro_batch_size={value} " in answer.err
    assert "a whole number of at least 1" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["3", "8"])
def test_a_size_that_does_not_divide_the_batch_is_refused_with_batches_that_do(
    value: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", f"micro_batch_size={value}")
    assert answer.code == 1
    assert f"micro_batch_size={value};" in answer.err
    assert f": {value}, {2 * int(value)}, " in answer.err, "batches that it divides"
