"""What watches a run leaves no trace in it: neither in the generators that others draw from, nor in a single weight."""

import pickle
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.testing import assert_close

from ldm_train.training.callbacks.finite import NonFinite
from ldm_train.training.callbacks.health import Health
from ldm_train.training.callbacks.progress import StepProgress
from ldm_train.training.callbacks.reconstructions import Reconstructions
from ldm_train.training.callbacks.samples import Samples
from ldm_train.training.callbacks.step_log import StepLog
from ldm_train.training.callbacks.stop import Stop
from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.snapshot_callback import Snapshots
from ldm_train.training.validation.metrics_callback import Metrics
from ldm_train.training.validation.validation_callback import Validation

WATCHERS = [Samples, Validation, Metrics, Health, Snapshots, Checkpoints, EMA, StepLog, StepProgress, NonFinite, Stop]
ALWAYS = [
    *("pictures.every=1", "validation.every=1", "metrics.every=1", "checkpoint.every=1", "checkpoint.keep=2"),
    *("metrics.count=4", "metrics.steps=1", "sampler=ddpm", "health.every=1"),
]
NEVER = [
    "pictures.every=1000",
    "pictures.prompts=[]",
    "validation.every=1000",
    "metrics.every=null",
    "checkpoint.every=1000",
]
SAVED = ["ema=power", "ema.snapshot_every=1"]
DROPOUT = "network.dropout=0.2"


def generators() -> bytes:
    """The state of every global generator, as bytes."""
    return pickle.dumps((torch.get_rng_state().numpy(), np.random.get_state(), random.getstate()))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> Mapping[type[Callback], list[tuple[bytes, bytes]]]:
    """Of each callback, the generators' states before and after every time that it worked."""
    found: dict[type[Callback], list[tuple[bytes, bytes]]] = {}

    def watch(kind: type[Callback]) -> None:
        work = kind.on_train_batch_end

        def watched(self: Callback, trainer: Trainer, *rest: object) -> None:
            before = generators()
            work(self, trainer, *rest)  # type: ignore[arg-type]
            found.setdefault(kind, []).append((before, generators()))

        monkeypatch.setattr(kind, "on_train_batch_end", watched)

    for kind in (*WATCHERS, Reconstructions):
        watch(kind)
    return found


def test_no_callback_draws_from_the_global_generators(
    cache: Path, train: Callable, states: Mapping[type[Callback], list[tuple[bytes, bytes]]], tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", "max_steps=3", DROPOUT, *ALWAYS, *SAVED)
    assert answer.code == 0, answer.err
    assert {kind: len(pairs) for kind, pairs in states.items()} == dict.fromkeys(WATCHERS, 3)
    for kind, pairs in states.items():
        assert all(before == after for before, after in pairs), f"{kind.__name__} left the generators otherwise"
    assert len({before for before, _ in states[Samples]}) == 3, "dropout draws from one of them, so they do move"
    for names in ("samples/step-*.png", "ema/*.safetensors", "checkpoints/step-*.ckpt"):
        assert len(list((tmp_path / "run").glob(names))) == (2 if "checkpoints" in names else 3), "that they worked"


def test_reconstructions_draw_from_none_either(
    ldm_train: Callable,
    pictures: Path,
    autoencoder_settings: list[str],
    states: Mapping[type[Callback], list[tuple[bytes, bytes]]],
    tmp_path: Path,
) -> None:
    words = [*autoencoder_settings, "max_steps=2", "pictures.every=1"]
    answer = ldm_train("train_autoencoder", f"source.path={pictures}", f"run_dir={tmp_path / 'run'}", *words)
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "run/samples").iterdir())) == len(states[Reconstructions]) == 2
    assert all(before == after for before, after in states[Reconstructions])


def state(run_dir: Path) -> dict[str, object]:
    """Weights, all averages, and the optimizer's state."""
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    ema = checkpoint["callbacks"]["EMA"]
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states")} | {
        name: ema[name] for name in ("average", "others")
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_that_is_watched_at_every_step_is_the_same(precision: str, run_with: Callable) -> None:
    """Bit for bit, also with dropout, whose masks come from a global generator, and under autocast, which keeps copies."""
    words = [DROPOUT, f"trainer.precision={precision}"]
    watched = run_with(*words, *ALWAYS, "ema=power", "ema.snapshot_every=1")
    alone = run_with(*words, *NEVER, "ema=power", "ema.snapshot_every=1000")
    assert_close(state(watched), state(alone), rtol=0, atol=0)


def test_a_module_comes_back_as_it_was(trained: Path) -> None:
    from ldm_train.assembly.parts import build_parts
    from ldm_train.assembly.training_module import training_module
    from ldm_train.run_dir.stored_settings import read_trained

    config = read_trained(trained)
    module = training_module(config, build_parts(config)).train()
    module.text_encoder.eval()
    before = [part.training for part in module.modules()]
    seen = []

    def look() -> None:
        with module.at_rest():
            seen.append((any(part.training for part in module.modules()), torch.is_grad_enabled()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert seen == [(False, False)]
    assert [part.training for part in module.modules()] == before
    assert torch.is_grad_enabled()
