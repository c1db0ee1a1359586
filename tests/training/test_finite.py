"""Steps whose loss or gradient is not finite: skipped without a trace in the weights, recorded, and in the end an error."""

import copy
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

BAD = {1, 4, 5, 8}  # the first step, two in a row, the last
QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000", "checkpoint.every=1000"]
PLAIN_ADAM = ["optimizer=adam", "optimizer.fused=false"]
SGD = ["optimizer=sgd", "optimizer.lr=1e-2"]
NADAM = ["optimizer._target_=torch.optim.NAdam", "~optimizer.fused"]
CLIP_VALUES = ["trainer.gradient_clip_val=0.01", "+trainer.gradient_clip_algorithm=value"]


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def read_examples(run_dir: Path, step: int, rank: int = 0) -> list[dict[str, Any]]:
    """What was kept of a step's examples."""
    record = json.loads((run_dir / f"nonfinite/step-{step:08d}-rank-{rank}.json").read_text())
    assert record["step"] == step
    return record["examples"]


def assert_same(one: object, other: object) -> None:
    """Bit for bit."""
    assert_close(one, other, rtol=0, atol=0)


@pytest.fixture
def without() -> Callable[[set[int]], Any]:
    """`with without({4}): …` undoes these steps by hand: computed, stepped, and everything put back as it was."""
    from pytorch_lightning import LightningModule

    from ldm_train.training.base_module import Training
    from ldm_train.training.ema.ema import EMA

    @contextmanager
    def undone(steps: set[int]) -> Iterator[None]:
        update = EMA.update

        def step_and_undo(self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            step, own = self.global_step + 1, self.trainer.optimizers[0]
            before = {name: p.detach().clone() for name, p in self.trained_parameters().items()}
            state = copy.deepcopy({p: own.state[p] for p in own.state})
            LightningModule.optimizer_step(self, epoch, batch_idx, optimizer, closure)
            if step in steps:
                kept = list(state.values())
                own.state = defaultdict(dict, zip(list(own.state)[: len(kept)], kept, strict=True))
                for name, p in self.trained_parameters().items():
                    p.data.copy_(before[name])

        def update_or_count(self: EMA, module: Any) -> None:
            if module.global_step in steps:
                self.updates += 1
            else:
                update(self, module)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "optimizer_step", step_and_undo, raising=False)
            patch.setattr(EMA, "update", update_or_count)
            yield

    return undone


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ([], "loss", float("nan")),
        (["micro_batch_size=2"], "gradient", float("inf")),
        (["ema=power", "ema.start_step=2", "trainer.gradient_clip_val=null"], "gradient", float("nan")),
        (CLIP_VALUES, "one example", float("nan")),
        (PLAIN_ADAM, "gradient", float("nan")),
        (SGD, "loss", float("-inf")),
        ([*SGD, "optimizer.nesterov=true", "optimizer.weight_decay=0.1", "micro_batch_size=1"], "gradient", float("inf")),
        (NADAM, "loss", float("nan")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_step_that_is_not_finite_changes_nothing_and_the_run_goes_on_without_it(
    words: list[str],
    place: str,
    value: float,
    cache: Path,
    train: Callable,
    seen: Any,
    spoiled: Callable,
    without: Callable,
    tmp_path: Path,
) -> None:
    with spoiled(BAD, place, value):
        answer = train(cache, tmp_path / "run", *QUIET, *words)
    assert answer.code == 0, answer.err
    states = dict(seen.states)
    for step in BAD - {1}:
        assert_same(vars(states[step]), vars(states[step - 1]))
    for step in {2, 3, 6, 7}:
        before, after = states[step - 1].weights, states[step].weights
        assert any(not torch.equal(after[name], before[name]) for name in before)
    seen.states.clear()
    with without(BAD):
        assert train(cache, tmp_path / "other", *QUIET, *words).code == 0
    for step in range(1, 9):
        assert_same(states[step].weights, seen.states[step].weights)
        assert_same(states[step].averages, seen.states[step].averages)
    assert_same(states[8].optimizer, seen.states[8].optimizer)
    actual, reference = lines(tmp_path / "run"), lines(tmp_path / "other")
    assert [line["step"] for line in actual] == list(range(1, 9))
    for line, other in zip(actual, reference, strict=True):
        if line["step"] not in BAD:
            assert line == other
        else:
            assert not torch.tensor([line["loss"], line["grad_norm"]]).isfinite().all()
            assert line["lr"] == other["lr"]
    assert answer.out.count(" was skipped") == len(BAD)


def test_momentum_is_made_by_the_first_step_that_counts(
    cache: Path, train: Callable, seen: Any, spoiled: Callable, tmp_path: Path
) -> None:
    with spoiled({1, 2}, "loss"):
        assert train(cache, tmp_path / "run", *QUIET, *SGD, "max_steps=3").code == 0
    assert all(not state or state.get("momentum_buffer") is None for state in seen.states[2].optimizer)
    assert all(state["momentum_buffer"].isfinite().all() for state in seen.states[3].optimizer)


def test_adams_own_counter_stands_still(cache: Path, train: Callable, seen: Any, spoiled: Callable, tmp_path: Path) -> None:
    with spoiled(BAD, "loss"):
        assert train(cache, tmp_path / "run", *QUIET).code == 0
    counted = {step: {float(state["step"]) for state in seen.states[step].optimizer} for step in range(1, 9)}
    assert counted == {1: {0}, 2: {1}, 3: {2}, 4: {2}, 5: {2}, 6: {3}, 7: {4}, 8: {4}}


# What is read_examples and kept


def signed(path: Path) -> Tensor:
    """A picture as the identity's latents, (3, H, W)."""
    with Image.open(path) as picture:
        values = torch.tensor(list(picture.convert("RGB").tobytes()), dtype=torch.float32)
        return values.view(picture.height, picture.width, 3).permute(2, 0, 1) / 127.5 - 1


def assert_names_are_of(examples: list[dict[str, Any]], shown: list[Tensor], path_of: Callable[[str], Path]) -> None:
    """That each named picture is the one that the network was shown."""
    inputs = torch.cat(shown).float()
    assert len(examples) == len(inputs)
    for example, latents in zip(examples, inputs, strict=True):
        assert_close(latents, signed(path_of(example["example"])), rtol=0, atol=2e-3)


@pytest.mark.parametrize("micro_batch_size", [4, 2])
def test_examples_timesteps_losses_and_weights_are_those_of_the_step(
    micro_batch_size: int, cache: Path, pictures: Path, train: Callable, seen: Any, spoiled: Callable, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with spoiled(BAD, "one example"):
        answer = train(cache, run_dir, *QUIET, f"micro_batch_size={micro_batch_size}")
    assert answer.code == 0, answer.err
    names = {path.name for path in (run_dir / "nonfinite").iterdir()}
    assert {name for name in names if name.endswith(".json")} == {f"step-{step:08d}-rank-0.json" for step in BAD}
    for step in BAD:
        examples = read_examples(run_dir, step)
        assert_names_are_of(examples, seen.inputs[step], lambda name: pictures / name)
        assert [example["t"] for example in examples] == torch.cat(seen.t[step]).tolist()
        spoilt = 4 - micro_batch_size + 1
        expected: list[object] = torch.cat(seen.losses[step]).tolist()
        expected[spoilt] = "nan"
        assert [example["loss"] for example in examples] == expected
        assert [example["finite"] for example in examples] == [number != spoilt for number in range(4)]
        assert f"(examples: {examples[spoilt]['example']})" in answer.out
    assert {name for name in names if name.endswith(".safetensors")} == {
        f"step-{step:08d}.safetensors" for step in (1, 4, 8)
    }, "of the first in a row"
    for step in (4, 8):
        assert_same(load_file(run_dir / f"nonfinite/step-{step:08d}.safetensors"), seen.states[step - 1].weights)
    assert_same(load_file(run_dir / "nonfinite/step-00000001.safetensors"), seen.states[1].weights)


def test_a_gradient_alone_accuses_no_example(cache: Path, train: Callable, spoiled: Callable, tmp_path: Path) -> None:
    with spoiled({2}, "gradient"):
        answer = train(cache, tmp_path / "run", *QUIET, "max_steps=2")
    assert answer.code == 0
    assert "(examples: none)" in answer.out
    assert all(example["finite"] for example in read_examples(tmp_path / "run", 2))


def test_joined_caches_are_reported_apart(
    cache: Path, pictures: Path, encode: Callable, train: Callable, seen: Any, spoiled: Callable, tmp_path: Path
) -> None:
    other = tmp_path / "inverted"
    other.mkdir()
    (other / "metadata.jsonl").write_text((pictures / "metadata.jsonl").read_text())
    for path in pictures.glob("*.png"):
        with Image.open(path) as picture:
            ImageOps.invert(picture).save(other / path.name)
    assert encode(other, tmp_path / "second", "dtype=float32").code == 0
    folders = {str(cache): pictures, str(tmp_path / "second"): other}
    with spoiled({2, 4}, "loss"):
        assert train(f"[{cache},{tmp_path / 'second'}]", tmp_path / "run", *QUIET, "max_steps=4").code == 0
    examples = [example for step in (2, 4) for example in read_examples(tmp_path / "run", step)]

    def path_of(name: str) -> Path:
        folder, _, key = name.partition(": ")
        return folders[folder] / key

    assert_names_are_of(examples, seen.inputs[2] + seen.inputs[4], path_of)
    assert {example["example"].partition(": ")[0] for example in examples} == set(folders)


@pytest.mark.slow
def test_pictures_encoded_on_the_fly_are_named(
    pictures: Path, ldm_train: Callable, train_words: list[str], seen: Any, spoiled: Callable, tmp_path: Path
) -> None:
    made = ["image_size=16", "autoencoder=identity", "text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1"]
    source = ["cache=null", "source=folder", f"source.path={pictures}", *made, "text_encoder.heads=4"]
    with spoiled({2}, "loss"):
        answer = ldm_train("train", *source, *train_words, *QUIET, "max_steps=3", f"run_dir={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert_names_are_of(read_examples(tmp_path / "run", 2), seen.inputs[2], lambda name: pictures / name)


@pytest.mark.slow
def test_an_autoencoders_steps_too(
    pictures: Path,
    ldm_train: Callable,
    autoencoder_settings: list[str],
    seen: Any,
    spoiled: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from ldm_train.training.autoencoder_module import AutoencoderTraining

    original, shown = AutoencoderTraining.training_step, {}

    def watched(self: Any, batch: Any, batch_idx: int) -> Any:
        shown[self.global_step + 1] = batch.images
        return original(self, batch, batch_idx)

    monkeypatch.setattr(AutoencoderTraining, "training_step", watched)
    run_dir = tmp_path / "run"
    words = [f"source.path={pictures}", f"run_dir={run_dir}", *autoencoder_settings, "max_steps=4", "pictures.every=1000"]
    with spoiled({2, 3}, "loss", float("inf")):
        answer = ldm_train("train_autoencoder", *words)
    assert answer.code == 0, answer.err
    for step in (2, 3):
        assert_same(seen.states[step].weights, seen.states[1].weights)
        assert_same(seen.states[step].optimizer, seen.states[1].optimizer)
        assert_names_are_of(read_examples(run_dir, step), [shown[step]], lambda name: pictures / name)
        assert {example["t"] for example in read_examples(run_dir, step)} == {None}
    assert_same(load_file(run_dir / "nonfinite/step-00000002.safetensors"), seen.states[1].weights)
    assert not (run_dir / "nonfinite/step-00000003.safetensors").exists()
    assert [line["loss"] for line in lines(run_dir)[1:3]] == [float("inf")] * 2


# When it ends a run


def test_so_many_in_a_row_end_the_run_and_a_good_one_in_between_does_not(
    cache: Path, train: Callable, spoiled: Callable, tmp_path: Path
) -> None:
    run_dir, words = tmp_path / "run", [*QUIET, "checkpoint.every=2", "max_nonfinite_steps=3"]
    with spoiled({1, 2, 4, 5, 7, 8, 9}, "loss"):
        answer = train(cache, run_dir, *words, "max_steps=12")
    assert answer.code == 1
    assert "not finite in 3 steps in a row, up to step 9 (max_nonfinite_steps=3)" in answer.err
    assert "optimizer.lr" in answer.err
    assert "Traceback" not in answer.err
    assert lines(run_dir)[-1]["step"] == 9
    answer = train(cache, run_dir, *words, "max_steps=12")
    assert answer.code == 0, "what ended it is gone, and the last checkpoint was good"
    assert "at step 8" in answer.out
    assert all(line["loss"] < 10 for line in lines(run_dir)[8:])


@pytest.mark.parametrize(("limit", "code"), [(2, 1), (3, 0)])
def test_the_last_steps_count_too(
    limit: int, code: int, cache: Path, train: Callable, spoiled: Callable, tmp_path: Path
) -> None:
    with spoiled({3, 4}, "gradient"):
        answer = train(cache, tmp_path / "run", *QUIET, "max_steps=4", f"max_nonfinite_steps={limit}")
    assert answer.code == code
    assert "step 4 was skipped" in answer.out
    assert ("up to step 4" in answer.err) == (code == 1)


def test_a_limit_below_one_is_refused(cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", "max_nonfinite_steps=0")
    assert answer.code == 1
    assert "max_nonfinite_steps=0 must be a whole number of at least 1" in answer.err
    assert not (tmp_path / "run").exists()


# Two processes


@pytest.mark.slow
def test_one_ranks_loss_leaves_the_step_out_on_both(
    cache: Path, train: Callable, train_words: list[str], spoiled: Callable, tmp_path: Path
) -> None:
    """Step 3: the loss of rank 1 alone, whose gradient is finite everywhere; step 5: one number of its gradient."""
    run_dir = tmp_path / "two"
    quiet = [*QUIET, "checkpoint.every=1", "checkpoint.keep=8"]
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *quiet, "trainer.devices=2"]
    job = json.dumps({"words": [*words, "trainer.strategy=ddp"], "loss": [3], "gradient": [5]})
    command = [sys.executable, str(Path(__file__).with_name("one_bad_rank.py")), job]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    saved = {step: torch.load(run_dir / f"checkpoints/step-{step:08d}.ckpt", weights_only=True) for step in range(1, 9)}
    for step in (3, 5):
        before, after = saved[step - 1], saved[step]
        assert_same(after["state_dict"], before["state_dict"])
        assert_same(after["callbacks"]["EMA"]["average"], before["callbacks"]["EMA"]["average"])
        assert_same(after["optimizer_states"][0]["state"], before["optimizer_states"][0]["state"])
        assert [len(read_examples(run_dir, step, rank)) for rank in (0, 1)] == [2, 2]
    assert [example["finite"] for rank in (0, 1) for example in read_examples(run_dir, 3, rank)] == [
        True,
        True,
        False,
        False,
    ]
    assert not torch.equal(
        saved[4]["state_dict"]["network.conv_in.weight"], saved[3]["state_dict"]["network.conv_in.weight"]
    )
    with spoiled({3, 5}, "loss"):
        assert train(cache, tmp_path / "one", *QUIET).code == 0
    for line, other in zip(lines(run_dir), lines(tmp_path / "one"), strict=True):
        if line["step"] not in (3, 5):
            assert line == pytest.approx(other, rel=1e-5)
    one = torch.load(tmp_path / "one/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    flat, expected = (torch.cat([state[name].flatten() for name in one]) for state in (saved[8]["state_dict"], one))
    assert (flat - expected).norm() < 1e-4 * expected.norm()
