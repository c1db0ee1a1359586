"""The health of a run, against what its weights, gradients and clock say in plain formulas."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ldm_train.networks.cpu_kernels import FastLinear, attend
from ldm_train.training.callbacks import health
from ldm_train.training.callbacks.block_norms import group_by_block, name_block
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.flops import CountFlops, peak

QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]


def lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def length(tensors: list[torch.Tensor]) -> float:
    return torch.cat([tensor.double().flatten() for tensor in tensors]).norm().item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("network.conv_in.weight", "network.conv_in"),
        ("network.down.0.residual.conv1.weight", "network.down.0"),
        ("network.model.up_blocks.3.resnets.0.conv1.weight", "network.up_blocks.3"),
        ("text_encoder.tower.transformer.resblocks.0.ln_1.weight", "text_encoder"),
        ("autoencoder.model.decoder.conv_in.weight", "autoencoder.decoder"),
        ("autoencoder.model.quant_conv.bias", "autoencoder.quant_conv"),
        ("weighting.frequencies", "weighting.frequencies"),
    ],
)
def test_blocks(name: str, expected: str) -> None:
    assert name_block(name) == expected


@pytest.mark.parametrize("words", [(), ("micro_batch_size=2",)])
def test_updates_and_the_distance_of_the_average(
    words: tuple[str, ...], cache: Path, train: Callable, seen: Any, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *QUIET, *words, "health.every=1")
    assert answer.code == 0, answer.err
    for line in lines(tmp_path / "run")[1:]:
        before, after = (seen.states[int(line["step"]) - back] for back in (1, 0))
        for name, parameters in group_by_block(list(after.weights)).items():
            moved = length([after.weights[p] - before.weights[p] for p in parameters])
            ratio = moved / length([after.weights[p] for p in parameters])
            assert line[f"health/update_ratio/{name}"] == pytest.approx(ratio, rel=1e-3)
        average = after.averages["decay"]
        apart = length([average[p] - weight for p, weight in after.weights.items()]) / length(list(after.weights.values()))
        assert line["health/ema_distance"] == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize(("limit", "fused"), [(0.7, "true"), (1.0, "false")])
def test_the_share_of_clipped_steps_is_that_of_their_norms(
    limit: float, fused: str, run_with: Callable, cache: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    """Also where a run was cut between two lines."""
    words = [f"trainer.gradient_clip_val={limit}", f"optimizer.fused={fused}", *QUIET]
    norms = [line["grad_norm"] for line in lines(run_with(*words))]
    with power_cut(7):
        train(cache, tmp_path / "run", *words, "health.every=4")
    answer = train(cache, tmp_path / "run", *words, "health.every=4")
    assert answer.code == 0, answer.err
    shares = {line["step"]: line["health/clipped"] for line in lines(tmp_path / "run") if "health/clipped" in line}
    clipped = [norm > limit for norm in norms]
    assert shares == {1: clipped[0], 4: sum(clipped[1:4]) / 3, 8: sum(clipped[4:]) / 4}


def test_a_step_that_is_left_out_moves_nothing_and_is_not_clipped(
    cache: Path, train: Callable, spoiled: Callable, tmp_path: Path
) -> None:
    with spoiled({3}, "gradient", math.inf):
        answer = train(cache, tmp_path / "run", *QUIET, "health.every=1", "trainer.gradient_clip_val=1e-6")
    assert answer.code == 0, answer.err
    for line in lines(tmp_path / "run"):
        ratios = [value for name, value in line.items() if name.startswith("health/update_ratio/")]
        assert (max(ratios) == 0) == (line["step"] == 3)
        assert line["health/clipped"] == (line["step"] != 3)


def test_the_weights_are_the_same_however_often_they_are_looked_at(run_with: Callable) -> None:
    one, other = (
        torch.load(run_with(*QUIET, f"health.every={every}") / "checkpoints/last.ckpt", weights_only=True)
        for every in (1, 1000)
    )
    for part in ("state_dict", "optimizer_states"):
        assert_close(one[part], other[part], rtol=0, atol=0)


def test_the_clock_goes_to_timing(trained: Path) -> None:
    timing = [line for line in lines(trained, "timing.jsonl") if "utilisation" in line]
    assert [line["step"] for line in timing] == [1, 8], "the first and the last"
    for line in timing:
        assert {"samples_per_second", "utilisation", "memory_gib", "minutes_left", "wait_for_data"} <= line.keys()
        assert line["utilisation"] > 0
        assert 0.01 < line["memory_gib"] < 64
        shares = [value for name, value in line.items() if name.startswith("share_") or name == "wait_for_data"]
        assert all(0 <= share <= 1 for share in shares)
        assert sum(shares) <= 1
    assert line["minutes_left"] == 0
    assert {"share_pictures", "share_validation", "share_checkpoints"} <= line.keys()


@pytest.mark.slow
def test_an_autoencoder_has_its_health_too(
    ldm_train: Callable,
    pictures: Path,
    autoencoder_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "HISTOGRAM_STEPS", 2)
    words = [
        f"source.path={pictures}",
        f"run_dir={tmp_path / 'run'}",
        *autoencoder_settings,
        "max_steps=3",
        "health.every=1",
    ]
    answer = ldm_train("train_autoencoder", *words, "logger=wandb", "logger.offline=true")
    assert answer.code == 0, answer.err
    for line in lines(tmp_path / "run"):
        blocks = {name.removeprefix("health/update_ratio/autoencoder.") for name in line if "update_ratio" in name}
        assert blocks == {"encoder", "decoder", "quant_conv", "post_quant_conv"}
        assert line["health/ema_distance"] >= 0
    assert "health/clipped" not in (tmp_path / "run/autoencoder/training.json").read_text()
    assert list(tmp_path.glob("run/wandb/offline-run-*/run-*.wandb"))
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    norms = [histogram.histogram_value for histogram in events.Histograms("optimizer/grad_norms")]
    assert [norm.num for norm in norms] == [2]
    assert norms[0].sum == pytest.approx(sum(line["grad_norm"] for line in lines(tmp_path / "run")[:2]), rel=1e-6)


# Operations


@pytest.mark.parametrize(
    ("module", "shape"), [(nn.Conv2d(8, 16, 3, padding=1), (2, 8, 16, 16)), (nn.Linear(64, 32), (7, 64))]
)
def test_operations_are_those_that_torch_counts(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, requires_grad=True)
    with CountFlops() as actual:
        module(x).sum().backward()
    with FlopCounterMode(display=False) as reference:
        module(x).sum().backward()
    assert actual.total == reference.get_total_flops() > 0


def test_operations_of_our_own_products_are_counted() -> None:
    x = torch.ones(128, 64, requires_grad=True)
    with CountFlops() as count:
        FastLinear(64, 32)(x).sum().backward()
    assert count.total == 3 * 2 * 128 * 64 * 32


@pytest.mark.parametrize("tokens", [16, 600])
def test_operations_of_attention_are_counted(tokens: int) -> None:
    """Two products forward; back, two for each of them and the scores once more; on either way that it is computed."""
    q = torch.ones(2, 4, tokens, 16, requires_grad=True)
    with CountFlops() as count:
        attend(q, q, q, None).sum().backward()
    assert count.total == 7 * 2 * (2 * 4 * tokens * tokens * 16)


def test_a_peak_is_measured_once_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    measured = [peak(torch.device("cpu"), torch.float32, torch.get_num_threads()) for _ in range(2)]
    assert measured[0] == measured[1] > 1e8
    assert torch.equal(torch.get_rng_state(), before)


# Time


def test_a_peak_is_measured_where_a_busy_machine_gives_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is paused for longer than the measurement may take, before its first product."""
    times = itertools.count(step=60.0)
    monkeypatch.setattr("ldm_train.training.flops.time.perf_counter", lambda: next(times))
    assert peak.__wrapped__(torch.device("cpu"), torch.float32, 3) > 0


def test_spent_adds_up_by_name_and_tells_what_is_done() -> None:
    now, tasks = iter([0.0, 2.0, 10.0, 10.5, 20.0, 21.0]), []
    spent = TimeSpent(clock=lambda: next(now))
    spent.listen(tasks.append)
    with spent("pictures"):
        pass
    with spent("validation"):
        pass
    with pytest.raises(KeyError), spent("pictures"):
        raise KeyError
    spent.add("data", 4.0)
    assert spent.seconds == {"pictures": 3.0, "validation": 0.5, "data": 4.0}
    assert spent.besides_training() == 3.5
    assert tasks == ["drawing pictures", "", "validating", "", "drawing pictures", ""]
