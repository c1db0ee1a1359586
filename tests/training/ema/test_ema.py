"""The average of the weights follows its recursion, and stands in for them without a trace."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import linear
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.training.ema.ema import EMA, average_fused, decaying, power
from ldm_train.training.ema.profiles import Decay, Power
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization.lr_schedules import Constant


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
    return SimpleNamespace(accumulate_grad_batches=1, optimizers=[None])


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


def recursion(history, profile):
    average = history[0]
    for n, weights in enumerate(history[1:], start=1):
        kept = profile.kept_share(n)
        average = kept * average + (1 - kept) * weights
    return average


@pytest.mark.parametrize("profile", [Decay(0.0), Decay(0.5), Decay(0.999), Power(0.1), Power(0.25)], ids=str)
def test_it_follows_its_recursion(module, trainer, profile):
    ema = EMA([profile])
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, range(60))
    assert_close(ema.average["network.weight"].double(), recursion(history, profile), rtol=1e-5, atol=1e-5)


def test_several_averages_do_not_meet(module, trainer):
    ema = power(lengths=[0.10, 0.05, 0.20])
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, range(40))
    assert ema.average is ema.averages["length 0.1"]
    for length in (0.10, 0.05, 0.20):
        found = ema.averages[f"length {length}"]["network.weight"]
        assert_close(found.double(), recursion(history, Power(length)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [1e-4, 0.3, 1.0])
def test_the_kernels_for_a_gpu_average_as_those_for_a_cpu(share):
    random = torch.Generator().manual_seed(0)
    averages, weights = ([torch.randn(shape, generator=random) for shape in ((5, 3), (7,), ())] for _ in range(2))
    before = [average.clone() for average in averages]
    expected = [average.lerp(weight, share) for average, weight in zip(averages, weights, strict=True)]
    average_fused(averages, weights, share=share, applied=torch.ones(()))
    assert_close(averages, expected, rtol=1e-6, atol=1e-7)
    if share == 1:
        assert_close(averages, weights, rtol=0, atol=0)
    else:
        skipped = [average.clone() for average in before]
        average_fused(skipped, weights, share=share, applied=torch.zeros(()))
        assert_close(skipped, before, rtol=0, atol=0)


def test_weights_of_float64_are_averaged_in_float64(module, trainer):
    module.double()
    ema = power()
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, range(40))
    assert_close(ema.average["network.weight"], recursion(history, Power(0.10)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("late", [decaying(decay=0.9, start_step=7), power(start_step=7)], ids=["decay", "power"])
@pytest.mark.parametrize("stored_at", [None, 3, 12])
def test_a_late_average_starts_from_the_weights_of_then(module, trainer, late, stored_at):
    """Before, it is the weights, whoever looks at it; not those of the very beginning."""
    ema = EMA(late.profiles, start_step=late.start_step)
    ema.on_train_start(trainer, module)
    history = train(ema, module, trainer, [])
    for step in range(20):
        history += train(ema, module, trainer, [step])[1:]
        own, raw = ema.average["network.weight"], module.network.weight
        assert torch.equal(own, raw) == (step < 7 or (step == 7 and isinstance(late.profiles[0], Power))), step
        assert own.data_ptr() != raw.data_ptr()
        if step == stored_at:
            state, ema = ema.state_dict(), EMA(late.profiles, start_step=late.start_step)
            ema.load_state_dict(state)
            ema.on_train_start(trainer, module)
    assert ema.number == 13
    assert_close(own.double(), recursion(history[7:], late.profiles[0]), rtol=1e-5, atol=1e-5)


def test_it_starts_as_a_copy_of_what_is_trained(module, trainer):
    ema = EMA()
    ema.on_train_start(trainer, module)
    assert_close(ema.average, {name: p.data for name, p in module.network.named_parameters(prefix="network")})
    assert ema.average["network.weight"].data_ptr() != module.network.weight.data_ptr()


def test_it_counts_optimizer_steps_not_micro_batches(module):
    ema, trainer = EMA(), SimpleNamespace(accumulate_grad_batches=3, optimizers=[None])
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
    assert_close(resumed.average["network.weight"].double(), recursion(history, Decay(0.9)), rtol=1e-5, atol=1e-5)


def test_fewer_lengths_than_before_go_on(module, trainer):
    ema = power(lengths=[0.10, 0.05])
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(5))
    resumed = power(lengths=[0.05])
    resumed.load_state_dict(ema.state_dict())
    assert_close(resumed.average, ema.averages["length 0.05"], rtol=0, atol=0)


def test_a_start_that_is_still_to_come_may_be_moved(module, trainer):
    ema = power(start_step=10)
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(5))
    other = power(start_step=6)
    other.load_state_dict(ema.state_dict())
    assert other.number == -1


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


def test_writing_into_swapped_weights_leaves_the_raw_ones_alone(module, trainer):
    ema = decaying(start_step=100)  # where the average equals the raw weights, and must be no alias of them
    ema.on_train_start(trainer, module)
    train(ema, module, trainer, range(5))
    raw = {name: p.detach().clone() for name, p in module.named_parameters()}
    with ema.swapped(module), torch.no_grad():
        for parameter in module.network.parameters():
            parameter.fill_(7)
    assert_close(dict(module.named_parameters()), raw, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": [0.1, 0.3]}, "ema.lengths=0.3 must be above 0 and at most 0.2886"),
        ({"lengths": 0.1}, "ema.lengths=0.1 must be a list"),
        ({"lengths": []}, "ema.lengths lists nothing"),
        ({"lengths": [0.1, 0.1]}, "ema.lengths lists .*0.1.*0.1"),
        ({"snapshot_every": 0}, "ema.snapshot_every=0 must be at least 1"),
        ({"dtype": "bfloat16"}, "ema.dtype=bfloat16 .*float16, float32"),
        ({"start_step": -1}, "ema.start_step=-1"),
    ],
)
def test_a_power_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        power(**settings)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema.decay={decay}"):
        decaying(decay=decay)
