"""Whole runs of a tiny network: what they leave, and that they are a function of config, data and seed alone."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.testing import assert_close

STEPS = 8
VALIDATED = {4, 8}
INTERVAL = ("loss_low", "loss", "loss_high")
CLOCK_WORDS = ("time", "second", "minute", "speed", "date")


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)


def raw(run_dir: Path) -> dict[str, Tensor]:
    return checkpoint(run_dir)["state_dict"]


def averaged(run_dir: Path) -> dict[str, Tensor]:
    return checkpoint(run_dir)["callbacks"]["EMA"]["average"]


def lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Bit for bit."""
    assert_close(dict(one), dict(other), rtol=0, atol=0)


# What a run leaves


def test_metrics_have_a_line_a_step_and_no_clock(trained: Path) -> None:
    metrics = lines(trained)
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for line in metrics:
        assert {"step", "loss", "noise_mse", "lr", "grad_norm"} <= set(line)
        assert all(isinstance(value, int | float) and value == value for value in line.values())
        names = [name for name in line if not name.startswith("health/update_ratio/")]  # by blocks, of which one is `time`
        assert not any(word in name for name in names for word in CLOCK_WORDS)
    assert {line["step"] for line in metrics if "validation_loss" in line} == VALIDATED


def test_the_loss_is_reported_by_log_snr_for_both_kinds_of_weights(trained: Path) -> None:
    """The bins' means, weighed by what of the training falls into each, are the total."""
    from ldm_train.diffusion.schedules.named import scaled_linear
    from ldm_train.diffusion.timesteps import Uniform
    from ldm_train.training.validation.strata import Strata

    records = lines(trained, "validation.jsonl")
    assert [(r["step"], r["weights"]) for r in records] == [(s, w) for s in sorted(VALIDATED) for w in ("ema", "raw")]
    totals = {line["step"]: line for line in lines(trained)}
    strata = Strata.of(Uniform(), scaled_linear(), bins=len(records[0]["loss"]))
    for record in records:
        line, suffix = totals[record["step"]], "_raw" if record["weights"] == "raw" else ""
        total = line[f"validation_loss{suffix}"]
        assert record["edges"] == strata.edges.tolist()
        assert (strata.shares * torch.tensor(record["loss"])).sum().item() == pytest.approx(total)
        assert line[f"validation_loss{suffix}_low"] < total < line[f"validation_loss{suffix}_high"]
        assert all(low <= mean <= high for low, mean, high in zip(*(record[n] for n in INTERVAL), strict=True))
    last = totals[STEPS]
    assert last["validation_loss"] != last["validation_loss_raw"]


def test_timing_goes_to_a_file_of_its_own(trained: Path) -> None:
    timing = lines(trained, "timing.jsonl")
    assert [line["step"] for line in timing] == list(range(1, STEPS + 1))
    assert all(line["samples_per_second"] > 0 for line in timing)


def test_the_learning_rate_warms_up_and_falls(trained: Path) -> None:
    rates = [line["lr"] for line in lines(trained)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] == max(rates[:1])
    assert rates[-1] < 0.1 * max(rates)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_checkpoint_holds_plain_containers_and_both_kinds_of_weights(trained: Path) -> None:
    loaded = checkpoint(trained)
    assert loaded["global_step"] == STEPS
    weights, average = loaded["state_dict"], loaded["callbacks"]["EMA"]["average"]
    assert set(average) == set(weights)
    assert {name.partition(".")[0] for name in weights} == {"network", "text_encoder"}
    assert all(tensor.isfinite().all() for tensor in (weights | average).values())
    changed = [name for name in weights if not torch.equal(weights[name], average[name])]
    assert len(changed) > len(weights) / 2
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["last.ckpt"]


def test_run_directory_holds_config_and_samples(trained: Path) -> None:
    assert "max_steps: 8" in (trained / "config.yaml").read_text()
    kinds = ("", "pairs-", "reverse-", "forward-")
    names = {f"{kind}step-{step:08d}.png" for kind in kinds for step in VALIDATED} | {"growth.png"}
    assert {path.name for path in (trained / "samples").iterdir()} == names | {"prompts.json"}
    for name in names:
        with Image.open(trained / "samples" / name) as picture:
            picture.load()
            assert picture.mode == "RGB"
            assert len(picture.getcolors(1 << 20)) > 4, "a picture, not a plain square"


def test_dashboard_lists_curves_and_pictures(trained: Path) -> None:
    events = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"loss/training", "loss/validation", "optimizer/lr", "optimizer/grad_norm"} <= set(events.Tags()["scalars"])
    shown = {f"pictures/{name}" for name in ("samples", "pairs", "reverse", "forward", "growth")}
    assert shown <= set(events.Tags()["images"])
    assert [event.step for event in events.Scalars("loss/training")] == list(range(1, STEPS + 1))
    assert [event.step for event in events.Images("pictures/samples")] == sorted(VALIDATED)
    logged = {line["step"]: line["loss"] for line in lines(trained)}
    assert {event.step: event.value for event in events.Scalars("loss/training")} == pytest.approx(logged, rel=1e-6)


def test_a_run_writes_nothing_outside_its_directory(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    before = {path: path.read_bytes() for path in cache.iterdir()}
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(cache, tmp_path / "run", "max_steps=1").code == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


# That it learns


def test_one_batch_is_overfitted(cache: Path, train: Callable, tmp_path: Path) -> None:
    """The same nine pictures at every step, so the loss at a timestep falls; smoothed over ten steps, to a third."""
    words = ["batch_size=9", "max_steps=120", "optimizer.lr=4e-3", "lr_schedule=constant", "lr_schedule.warmup_steps=5"]
    quiet = [
        "pictures.every=1000",
        "pictures.prompts=[]",
        "validation.every=1000",
        "checkpoint.every=1000",
        "caption_dropout=0",
    ]
    assert train(cache, tmp_path / "run", *words, *quiet).code == 0
    losses = torch.tensor([line["loss"] for line in lines(tmp_path / "run")])
    assert losses[0] == pytest.approx(1, abs=0.1), "a network that starts at zero errs by the noise's variance"
    assert losses[-10:].mean() < losses[:10].mean() / 3


# That it is a function of config, data and seed


def test_the_same_run_again_is_the_same(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)  # whatever state the process is in
    assert train(cache, tmp_path / "run").code == 0
    assert_equal(raw(tmp_path / "run"), raw(trained))
    assert_equal(averaged(tmp_path / "run"), averaged(trained))
    assert (tmp_path / "run/metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def test_another_seed_is_another_run(run_with: Callable, trained: Path) -> None:
    other = run_with("seed=1")
    assert lines(other)[0]["loss"] != lines(trained)[0]["loss"]
    assert not torch.equal(raw(other)["network.conv_in.weight"], raw(trained)["network.conv_in.weight"])


@pytest.mark.parametrize(
    "words",
    [
        ("pictures.every=1", "validation.every=1", "checkpoint.every=1"),
        ("pictures.every=1000", "pictures.prompts=[]", "validation.every=1000", "checkpoint.every=1000"),
        ("trainer.log_every_n_steps=5", "pictures.steps=2", "guidance.scale=1", "validation.repeats=1"),
    ],
)
def test_watching_leaves_the_weights_alone(words: tuple[str, ...], run_with: Callable, trained: Path) -> None:
    watched = run_with(*words)
    assert_equal(raw(watched), raw(trained))
    assert_equal(averaged(watched), averaged(trained))


def test_validation_does_not_depend_on_its_batch_size(cache: Path, trained: Path) -> None:
    from ldm_train.assembly.parts import build_parts
    from ldm_train.assembly.stored_weights import load_weights
    from ldm_train.assembly.training_data import make_batches
    from ldm_train.assembly.training_module import training_module
    from ldm_train.data.cache.reader import LatentCache
    from ldm_train.run_dir.stored_settings import read_trained
    from ldm_train.training.validation.compared import choose_trained
    from ldm_train.training.validation.fixed_losses import measure_losses

    config = read_trained(trained)
    parts = build_parts(config)
    load_weights(trained, parts)
    module, data = training_module(config, parts), make_batches(config, LatentCache(cache), parts)
    whole, single = (measure_losses(module, data, data.held_out, batch_size=size, repeats=2).scalars() for size in (64, 1))
    assert single == pytest.approx(whole, rel=1e-6)
    assert lines(trained)[-1]["validation_loss"] == pytest.approx(whole["loss"], rel=1e-6), "that of the averaged weights"
    taught = choose_trained(data, held_out=3)
    assert sorted(taught.tolist()) == sorted(torch.cat(data.train).tolist()), "all nine: as few as three mean little"
    losses = measure_losses(module, data, taught, batch_size=64, repeats=2).scalars()
    assert lines(trained)[-1]["taught_validation_loss"] == pytest.approx(losses["loss"], rel=1e-6)


# That it can be interrupted


@pytest.mark.parametrize("words", [(), ("micro_batch_size=2",)])
@pytest.mark.parametrize("at", [3, 5])
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    at: int, words: tuple[str, ...], cache: Path, train: Callable, run_with: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    whole, run_dir = run_with(*words), tmp_path / "run"
    with power_cut(at):
        train(cache, run_dir, *words)
    assert checkpoint(run_dir)["global_step"] == 3
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a line that was being written
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert f"continuing {run_dir} at step 3" in answer.out
    assert_equal(raw(run_dir), raw(whole))
    assert_equal(averaged(run_dir), averaged(whole))
    assert_close(checkpoint(run_dir)["optimizer_states"], checkpoint(whole)["optimizer_states"], rtol=0, atol=0)
    assert (run_dir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert [line["step"] for line in lines(run_dir, "timing.jsonl")] == list(range(1, STEPS + 1))


def test_a_run_cut_before_its_first_checkpoint_starts_anew(
    cache: Path, train: Callable, trained: Path, power_cut: Callable, tmp_path: Path
) -> None:
    with power_cut(2):
        train(cache, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert train(cache, tmp_path / "run").code == 0
    assert (tmp_path / "run/metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    assert_equal(raw(tmp_path / "run"), raw(trained))


class NoPowerError(Exception):
    """Nothing in the package expects it."""


@pytest.mark.parametrize("fault", ["no power", "full disk"])
def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    fault: str, cache: Path, train: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run_dir = torch.save, tmp_path / "run"

    def half(checkpoint: dict, file: IO[bytes]) -> None:
        original(checkpoint, file)
        if checkpoint["global_step"] == 6:
            file.truncate(1000)
            raise NoPowerError if fault == "no power" else RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", half)
    if fault == "no power":
        with pytest.raises(NoPowerError):
            train(cache, run_dir)
    else:
        answer = train(cache, run_dir)
        assert answer.code == 1
        assert "MiB are free" in answer.err
        assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    monkeypatch.undo()
    assert checkpoint(run_dir)["global_step"] == 3
    assert train(cache, run_dir).code == 0
    assert_equal(raw(run_dir), raw(trained))


def test_a_finished_run_is_left_as_it_is(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    assert train(cache, run_dir).code == 0
    assert_equal(raw(run_dir), raw(trained))
    assert (run_dir / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def test_a_finished_run_goes_on_to_more_steps(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    assert train(cache, run_dir, "max_steps=10").code == 0
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 11))
    assert checkpoint(run_dir)["global_step"] == 10


def test_resume_never_refuses_a_checkpoint(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    answer = train(cache, run_dir, "resume=never")
    assert answer.code == 1
    assert "last.ckpt is already there; resume=auto continues it" in answer.err
    assert_equal(raw(run_dir), raw(trained))


def test_another_cache_is_refused_on_resume(
    pictures: Path, encode: Callable, train: Callable, trained: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    assert encode(pictures, tmp_path / "other", "dtype=float16").code == 0
    answer = train(tmp_path / "other", run_dir)
    assert answer.code == 1
    assert "cannot be continued, for its run differs" in answer.err
    assert "the data: then" in answer.err


@pytest.mark.parametrize("words", [("network.channels=[16,48]",), ("network.blocks=2",), ("network.patch_size=1",)])
def test_another_network_is_refused_on_resume(
    words: tuple[str, ...], cache: Path, train: Callable, trained: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    config = (run_dir / "config.yaml").read_text()
    answer = train(cache, run_dir, "max_steps=10", *words)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert (run_dir / "config.yaml").read_text() == config, "the run that is there still says how it was made"


# That it can start from another run


def test_a_run_starts_from_anothers_averaged_weights(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    """At a rate of nothing the weights stay where they started."""
    words = ["max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0"]
    answer = train(cache, tmp_path / "run", f"network.weights={trained}", *words)
    assert answer.code == 0, answer.err
    assert f"starting from the averaged weights of {trained} at its step 8" in answer.out
    assert_equal(raw(tmp_path / "run"), averaged(trained))
    assert checkpoint(tmp_path / "run")["global_step"] == 1


def test_weights_of_another_network_are_refused_by_name(cache: Path, train: Callable, trained: Path, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", f"network.weights={trained}", "network.channels=[16,48]")
    assert answer.code == 1
    assert "was trained with another network" in answer.err
    assert not (tmp_path / "run/checkpoints").exists()


# Other shapes of run


def test_without_held_out_examples(pictures: Path, encode: Callable, train: Callable, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name != "split"} for row in rows]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode(source, tmp_path / "cache").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", "held_out=0", "max_steps=2")
    assert answer.code == 0, answer.err
    assert not any("validation_loss" in line for line in lines(tmp_path / "run"))
    assert (tmp_path / "run/samples/step-00000002.png").is_file()


def test_a_frozen_text_encoder_is_neither_trained_nor_stored(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    assert encode(pictures, tmp_path / "cache", "text_encoder.trained=false").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", "max_steps=2", "seed=5")
    assert answer.code == 0, answer.err
    assert {name.partition(".")[0] for name in raw(tmp_path / "run")} == {"network"}
    other = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=2", "text_encoder.trained=false"]
    answer = train(tmp_path / "cache", tmp_path / "other", "max_steps=2", *other)
    assert answer.code == 1
    assert "text_encoder.fingerprint" in answer.err
