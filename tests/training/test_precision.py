"""Every precision trains, validates, draws and resumes; what watches a run computes as the training does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ldm_train.autoencoders.autoencoder import IdentityAutoencoder, KLAutoencoder
from ldm_train.networks.unet import UNet

PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}


@pytest.mark.parametrize(("precision", "computed"), PRECISIONS.items(), ids=PRECISIONS)
def test_networks_are_watched_as_they_are_trained(
    precision: str, computed: torch.dtype, cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same type within the network at every call; the autoencoder decodes in its own, whatever autocast is for."""
    forward, decode = UNet.forward, IdentityAutoencoder.decode
    called: list[tuple[bool, bool, torch.dtype]] = []
    decoded: set[tuple[bool, torch.dtype]] = set()

    def watched_forward(self: UNet, *arguments: object) -> Tensor:
        output = forward(self, *arguments)  # type: ignore[arg-type]
        called.append((self.training, torch.is_grad_enabled(), output.dtype))
        return output

    def watched_decode(self: IdentityAutoencoder, raw_latents: Tensor) -> Tensor:
        decoded.add((torch.is_autocast_enabled("cpu"), raw_latents.dtype))
        return decode(self, raw_latents)

    monkeypatch.setattr(UNet, "forward", watched_forward)
    monkeypatch.setattr(IdentityAutoencoder, "decode", watched_decode)
    answer = train(cache, tmp_path / "run", f"trainer.precision={precision}", "max_steps=2", "sampler=ddpm")
    assert answer.code == 0, answer.err
    assert set(called) == {(True, True, computed), (False, False, computed)}
    assert [training for training, _, _ in called][:2] == [True, True], "each step trains after the one before was watched"
    assert decoded == {(False, torch.float32)}


@pytest.mark.parametrize(("precision", "stored"), [("64-true", torch.float64), ("bf16-mixed", torch.float32)])
def test_a_precision_resumes_bit_for_bit_and_draws(
    precision: str,
    stored: torch.dtype,
    cache: Path,
    train: Callable,
    ldm_train: Callable,
    power_cut: Callable,
    run_with: Callable,
    tmp_path: Path,
) -> None:
    word = f"trainer.precision={precision}"
    run_dir, whole = tmp_path / "run", run_with(word)
    with power_cut(5):
        train(cache, run_dir, word)
    assert train(cache, run_dir, word).code == 0
    assert (run_dir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    weights, straight = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (run_dir, whole)
    )
    assert {tensor.dtype for tensor in weights.values()} == {stored}
    assert all(torch.equal(weights[name], straight[name]) for name in straight)
    answer = ldm_train("sample", f"run_dir={run_dir}", "prompts=[a]", "steps=2", f"out={tmp_path / 'out'}", "device=cpu")
    assert answer.code == 0, answer.err


def test_full_precision_shows_how_single_rounds(run_with: Callable) -> None:
    """All that is logged, in training and in validation, is the same number; only float64 has more digits of it."""
    double, single = (
        [json.loads(line) for line in (run_with(*words) / "metrics.jsonl").read_text().splitlines()]
        for words in (["trainer.precision=64-true"], [])
    )
    for one, other in zip(double, single, strict=True):
        coarse = {name for name in one if name.startswith("health/update_ratio/")}  # differences of weights, in their digits
        assert {n: v for n, v in one.items() if n not in coarse} == pytest.approx(
            {n: v for n, v in other.items() if n not in coarse}, rel=1e-5
        )
    numbers = [line[name] for line in double for name in line if name.endswith(("loss", "mse", "norm"))]
    assert sum(torch.tensor(number).item() == number for number in numbers) == 0, "none of them fits into float32"


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.slow
def test_an_autoencoder_trains_in_every_precision_and_is_written_in_single(
    precision: str,
    ldm_train: Callable,
    pictures: Path,
    autoencoder_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode, encoded = KLAutoencoder.encode, set()

    def watched(self: KLAutoencoder, images: Tensor) -> object:
        moments = encode(self, images)
        encoded.add(moments.mean.dtype)
        return moments

    monkeypatch.setattr(KLAutoencoder, "encode", watched)
    words = [*autoencoder_settings, f"trainer.precision={precision}", "max_steps=2"]
    answer = ldm_train("train_autoencoder", f"source.path={pictures}", f"run_dir={tmp_path / 'run'}", *words)
    assert answer.code == 0, answer.err
    assert encoded == {PRECISIONS[precision], torch.float32}, "while it trains, and once it is written"
    weights = load_file(tmp_path / "run/autoencoder/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
