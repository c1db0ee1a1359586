"""The average of the weights follows its recursion, and stands in for them without a trace."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules import linear
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.encoders.latents import Scaling
from ldm_train.training.ema import EMA, decaying
from ldm_train.training.lr_schedules import Constant
from ldm_train.training.module import NoisePredictorTraining


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NoisePredictorTraining(
            nn.Linear(3, 2),
            nn.Linear(2, 2).requires_grad_(False),
            scaling=Scaling(0.0, 1.0),
            schedule=linear(),
            prediction=Noise(),
            timesteps=Uniform(),
            weighting=UniformWeight(),
            optimizer=torch.optim.SGD,
            lr_schedule=Constant(),
            batch_size=1,
        )


@pytest.fixture
def trainer():
    return SimpleNamespace(accumulate_grad_batches=1)


@torch.no_grad()
def change(module, step):
    """What an optimizer would do."""
    for parameter in module.network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))


def train(ema, module, trainer, steps):
    """Each step's weights, beginning with the first."""
    history = [module.network.weight.detach().double().clone()]
    for step in steps:
        change(module, step)
        ema.on_train_batch_end(trainer, module, None, None, step)
        history.append(module.network.weight.detach().double().clone())
    return history


def recursion(history, decay):
    average = history[0]
    for n, weights in enumerate(history[1:], start=1):
        kept = min(decay, (1 + n) / (10 + n))
        average = kept * average + (1 - kept) * weights
    return average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_it_follows_its_recursion(module, trainer, decay):
    ema = decaying(decay=decay)
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, range(60))
    assert_close(ema.average["network.weight"].double(), recursion(history, decay), rtol=1e-5, atol=1e-5)


def test_it_starts_as_a_copy_of_what_is_trained(module, trainer):
    ema = EMA()
    ema.on_train_start(trainer, module)
    assert_close(ema.average, {name: p.data for name, p in module.network.named_parameters(prefix="network")})
    assert ema.average["network.weight"].data_ptr() != module.network.weight.data_ptr()


def test_it_counts_optimizer_steps_not_micro_batches(module):
    ema, trainer = EMA(), SimpleNamespace(accumulate_grad_batches=3)
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(7))
    assert ema.updates == 2


@pytest.mark.parametrize("broken", [4, 20])
def test_stored_and_loaded_it_goes_on_as_if_nothing_had_happened(module, trainer, broken):
    ema = decaying(decay=0.9)
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, range(broken))
    resumed = decaying(decay=0.9)
    resumed.load_state_dict(ema.state_dict())
    resumed.on_train_start(trainer, module)
    history += train(resumed, module, trainer, range(broken, 30))[1:]
    assert_close(resumed.average["network.weight"].double(), recursion(history, 0.9), rtol=1e-5, atol=1e-5)


def test_swapped_the_network_computes_with_the_average(module, trainer):
    ema = EMA()
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(5))
    x = torch.ones(1, 3)
    with ema.swapped(module):
        averaged = module.network(x)
    assert_close(averaged, nn.functional.linear(x, ema.average["network.weight"], ema.average["network.bias"]))
    assert not torch.isclose(averaged, module.network(x)).any()


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True], ids=["normally", "on an exception"])
def test_the_raw_weights_come_back(module, trainer, fails):
    ema = EMA()
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(5))
    raw = {name: p.detach().clone() for name, p in module.named_parameters()}
    places = [p.data_ptr() for p in module.parameters()]
    average = {name: value.clone() for name, value in ema.average.items()}
    try:
        with ema.swapped(module):
            if fails:
                raise InterruptionError
    except InterruptionError:
        assert fails
    assert_close(dict(module.named_parameters()), raw, rtol=0, atol=0)
    # The same memory, to which the optimizer's state belongs.
    assert [p.data_ptr() for p in module.parameters()] == places
    assert_close(ema.average, average, rtol=0, atol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema.decay={decay}"):
        decaying(decay=decay)
