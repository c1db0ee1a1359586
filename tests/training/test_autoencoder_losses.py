"""The terms of an autoencoder's loss, compared with direct computations."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from ldm_train import draws
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.training import autoencoder_module
from ldm_train.training.autoencoder_losses import choose_side, gradient_error, kl_divergence, scale_and_turn
from ldm_train.training.autoencoder_module import AutoencoderTraining, LossWeights
from ldm_train.types import ImageBatch, Moments


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def module(weights: LossWeights | None = None) -> AutoencoderTraining:
    autoencoder = NewKLAutoencoder([8, 16], groups=4).initialise(0)
    return AutoencoderTraining(autoencoder, optimizer=torch.optim.SGD, lr_schedule=lambda step, steps: 1.0, weights=weights)


def batch(count: int = 8, side: int = 16) -> ImageBatch:
    return ImageBatch(torch.arange(count) + 5, noise(count, 3, side, side).clamp(-1, 1))


def test_divergence_in_closed_form() -> None:
    """KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2, and 0 for the standard normal itself."""
    standard = Moments(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    assert_close(kl_divergence(standard), torch.zeros(2))
    moments = Moments(torch.full((2, 4, 3, 3), 2.0), torch.full((2, 4, 3, 3), 1.0))
    assert_close(kl_divergence(moments), torch.full((2,), 0.5 * (4 + torch.e - 1 - 1)))


def test_gradient_error_is_that_of_both_pictures_gradients_at_three_scales() -> None:
    decoded, images, expected = noise(2, 3, 16, 12), noise(2, 3, 16, 12, seed=1), []
    for _ in range(3):
        (dy, dx), (dy_true, dx_true) = (
            (x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]) for x in (decoded, images)
        )
        expected.append((dx - dx_true).abs().mean() + (dy - dy_true).abs().mean())
        decoded, images = (
            (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4 for x in (decoded, images)
        )
    assert_close(gradient_error(noise(2, 3, 16, 12), noise(2, 3, 16, 12, seed=1)), sum(expected) / 3)


def test_gradient_error_ignores_brightness_and_punishes_a_blurred_edge() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert gradient_error(edge + 0.3, edge).item() == pytest.approx(0, abs=1e-6)
    blurred = F.avg_pool2d(F.pad(edge, (1, 1, 0, 0), mode="replicate"), (1, 3), stride=1)
    assert gradient_error(blurred, edge) > 0.05
    assert gradient_error(edge[..., :1, :1], edge[..., 1:2, 1:2]) == 0, "one pixel has no gradient"


@pytest.mark.parametrize("side", [4, 11, 16])
def test_scaling_interpolates_and_turns_each_example_by_its_own_quarter_turns(side: int) -> None:
    images, turns = noise(4, 3, 16, 16), torch.arange(4)
    scaled = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    expected = torch.stack([torch.rot90(scaled[i], i, (1, 2)) for i in range(4)])
    assert_close(scale_and_turn(images, side, turns), expected)


def test_turning_and_scaling_commute_and_scale_one_only_turns() -> None:
    latents, turns = noise(4, 3, 16, 16), torch.arange(4)
    assert_close(scale_and_turn(latents, 16, turns)[1], latents[1].rot90(1, (-2, -1)), rtol=0, atol=0)
    assert_close(scale_and_turn(scale_and_turn(latents, 16, turns), 8, 0 * turns), scale_and_turn(latents, 8, turns))


def test_scales_are_from_a_quarter_to_all_of_the_side() -> None:
    assert [choose_side(16, u) for u in (0.0, 0.5, 1 - 1e-7)] == [4, 10, 16]
    assert choose_side(1, 0.0) == 1


def test_terms_with_weight_zero_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gradient_error", "scale_and_turn"):
        monkeypatch.setattr(autoencoder_module, name, None)
    assert set(module().training_step(batch(), 0)) == {"loss", "l1", "mse", "kl"}


def test_equivariance_is_the_error_of_decoding_scaled_and_turned_latents() -> None:
    trained = module(LossWeights(mse=0.5, kl=0.0, gradient=0.25, equivariance=2.0, equivariance_share=0.6))
    examples = batch(12)
    terms = trained.training_step(examples, 0)
    moments = trained.autoencoder.encode(examples.images)
    latents = moments.draw(draws.normal(0, "posterior", examples.positions, moments.mean.shape[1:]))
    chosen = draws.uniform(0, "equivariance", examples.positions) < 0.6
    assert 0 < chosen.sum() < 12
    side = choose_side(8, draws.uniform(0, "equivariance scale", torch.tensor([0])).item())
    turns = (draws.uniform(0, "equivariance turn", examples.positions) * 4).long()
    error = torch.zeros(())
    for i in chosen.nonzero()[:, 0]:
        shape = {"side": side, "turns": turns[i : i + 1]}
        decoded = trained.autoencoder.decode(scale_and_turn(latents[i : i + 1], **shape))
        true = scale_and_turn(examples.images[i : i + 1], **shape | {"side": 2 * side})
        error += F.l1_loss(decoded, true) + 0.5 * F.mse_loss(decoded, true) + 0.25 * gradient_error(decoded, true)
    assert_close(terms["equivariance"], (error / (0.6 * 12)).detach())
    plain = terms["l1"] + 0.5 * terms["mse"] + 0.25 * terms["gradient"]
    assert_close(terms["loss"].detach(), plain + 2.0 * terms["equivariance"])


def test_equivariance_reaches_encoder_and_decoder_and_is_the_same_in_micro_batches() -> None:
    trained, examples = module(LossWeights(equivariance=1.0)), batch(12)
    whole = trained.training_step(examples, 0)["loss"]
    whole.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.trained_parameters().values())
    parts = [ImageBatch(examples.positions[i : i + 4], examples.images[i : i + 4]) for i in (0, 4, 8)]
    assert_close(sum(trained.training_step(part, 0)["loss"] for part in parts) / 3, whole)


def test_no_example_chosen_is_an_error_of_zero() -> None:
    trained = module(LossWeights(equivariance=1.0, equivariance_share=1e-9))
    assert trained.training_step(batch(2), 0)["equivariance"] == 0
