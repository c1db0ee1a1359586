"""What is the same in all steps of a draw is computed once, and changes no bit."""

import gc
import weakref
from collections import Counter

import pytest
import torch
from torch import nn

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import AnyDenoiser, Autoguidance, classifier_free
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.networks.attention import Attention
from ldm_train.networks.attention_maps import AttentionRecorder
from ldm_train.networks.lora import LoRA
from ldm_train.networks.unet import UNet
from ldm_train.samplers import base
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.heun import Heun
from ldm_train.types import Conditioning
from ldm_train.util import kept_values
from ldm_train.util.kept_values import keep, keep_values

STEPS = 4


def build(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    network = UNet(
        in_channels=4,
        context_width=12,
        vector_width=None,
        channels=[8, 16],
        blocks=1,
        attention=[True, True],
        only_cross_attention=[True, False],
        heads=2,
    )
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return network.eval().requires_grad_(False)


def conditioning(seed: int, *, masked: bool = False) -> Conditioning:
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(seed))
    return Conditioning(tokens=tokens, mask=torch.arange(5).expand(2, 5) < 3 if masked else None)


def count_projections(network: nn.Module) -> Counter[int]:
    """Count the calls of each layer that projects a context to keys and values."""
    calls: Counter[int] = Counter()
    for module in network.modules():
        if isinstance(module, Attention) and module.to_kv.in_features == 12:
            module.to_kv.register_forward_hook(lambda layer, *_: calls.update([id(layer)]))
    return calls


def draw(denoiser: AnyDenoiser, given: Conditioning, sampler: base.Sampler | None = None) -> torch.Tensor:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    return (sampler or DDIM())(denoiser, noise, given, steps=STEPS)


class Nothing:
    """In the place of the variable that holds what is kept."""

    def get(self) -> None:
        return None

    def set(self, value: object) -> None:
        """Forget the value."""

    reset = set


def draw_anew(denoiser: AnyDenoiser, given: Conditioning, sampler: base.Sampler | None = None) -> torch.Tensor:
    """Draw with nothing kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_values, "_kept", Nothing())
        return draw(denoiser, given, sampler)


KINDS = {
    "plain": lambda one, weak, masked: one,
    "guided": lambda one, weak, masked: classifier_free(one, conditioning(2, masked=masked), scale=3.0),
    "three branches": lambda one, weak, masked: classifier_free(
        one, conditioning(2, masked=masked), scale=3.0, condition_scale=2.0, unconditional=conditioning(3, masked=masked)
    ),
    "in an interval": lambda one, weak, masked: classifier_free(
        one, conditioning(2, masked=masked), scale=3.0, interval=[0.3, 4.0]
    ),
    "autoguided": lambda one, weak, masked: Autoguidance(one, weak, scale=2.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sampler", [DDIM(), Heun()], ids=["ddim", "heun"])
def test_the_same_bits_from_keys_and_values_of_the_first_step(kind: str, masked: bool, sampler: base.Sampler) -> None:
    networks = build(), build(1)
    denoisers = [Denoiser(network, scaled_linear(), Noise()) for network in networks]
    given = conditioning(1, masked=masked)
    denoiser = KINDS[kind](*denoisers, masked)
    expected = draw_anew(denoiser, given, sampler)
    calls = count_projections(networks[0])
    assert torch.equal(draw(denoiser, given, sampler), expected)
    assert set(calls.values()) == ({2} if kind == "in an interval" else {1})


def test_each_draw_computes_anew() -> None:
    network = build()
    denoiser, given = Denoiser(network, scaled_linear(), Noise()), conditioning(1)
    before = draw(denoiser, given)
    for p in network.parameters():
        p.mul_(1.5)
    after = draw(denoiser, given)
    assert not torch.equal(before, after)
    assert torch.equal(after, draw_anew(denoiser, given))
    given.tokens.mul_(2)
    assert torch.equal(draw(denoiser, given), draw_anew(denoiser, given))


def test_half_precision_and_adapters() -> None:
    network = build()
    LoRA(rank=2).attach(network.requires_grad_(True), nn.Module(), seed=0)
    for name, p in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    denoiser, given = Denoiser(network, scaled_linear(), Noise()), conditioning(1)
    assert torch.equal(draw(denoiser, given), draw_anew(denoiser, given))
    half = Denoiser(build().bfloat16(), scaled_linear(), Noise())
    calls = count_projections(half.network)
    assert torch.equal(draw(half, given), draw_anew(half, given))
    assert set(calls.values()) == {1 + STEPS}


def test_maps_of_attention_stay_the_same() -> None:
    network, given = build(), conditioning(1)
    denoiser, groups = Denoiser(network, scaled_linear(), Noise()), torch.eye(5).expand(2, 5, 5).clone()
    maps = []
    for drawing in (draw, draw_anew):
        with AttentionRecorder(network, groups) as recorder:
            drawing(denoiser, given)
            recorder.close_step()
        maps.append(recorder.steps[0])
    assert maps[0].keys() == maps[1].keys()
    assert all(torch.equal(one, maps[1][shape]) for shape, one in maps[0].items())


def test_a_step_of_training_in_between_has_its_gradients() -> None:
    network = build().requires_grad_(True)
    given = conditioning(1)
    with keep_values():
        for _ in range(2):
            network(torch.ones(2, 4, 8, 8), torch.ones(2), given).sum().backward()
            assert all(p.grad is not None for name, p in network.named_parameters() if "to_kv" in name)
            network.zero_grad()


def test_values_are_freed_and_few() -> None:
    class Thing:
        pass

    owner, made = Thing(), []
    with keep_values():
        for _ in range(20):
            key = Thing()
            value = keep(owner, (key,), Thing)
            assert keep(owner, (key,), Thing) is value
            made += [weakref.ref(key), weakref.ref(value)]
        del key, value
        gc.collect()
        assert sum(one() is not None for one in made) == 2 * kept_values.MOST
    gc.collect()
    assert not any(one() is not None for one in made)
    assert keep(owner, (), lambda: 1) + keep(owner, (), lambda: 2) == 3
