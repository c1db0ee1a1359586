"""Parameter groups: what decays, whose rate is whose, and that every optimizer trains with them."""

import re

import pytest
import torch
from torch import nn

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.diffusion.prediction import Flow
from ldm_train.diffusion.schedules.named import RectifiedFlow
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import LearnedLogVariance
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization.lr_schedules import Constant
from ldm_train.training.optimization.optimizers import build_optimizer
from ldm_train.training.optimization.parameter_groups import DEFAULT_GROUPS, SINGLE_GROUP, ParameterGroups


class Network(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


WEIGHTS = ["network.conv.weight", "network.linear.weight"]
OTHERS = ["network.gain", "network.conv.bias", "network.norm.weight", "network.norm.bias", "network.linear.bias"]
TEXT_WEIGHTS, TEXT_OTHERS = (
    ["text_encoder.0.weight", "text_encoder.1.weight"],
    ["text_encoder.1.bias", "text_encoder.2.weight"],
)
TEXT_OTHERS = [*TEXT_OTHERS, "text_encoder.2.bias"]
TABLE = "weighting.coefficients"


def whole() -> nn.ModuleDict:
    """The text encoder stands first, and the network's parameters still come first."""
    text_encoder = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    return nn.ModuleDict({"text_encoder": text_encoder, "network": Network(), "weighting": LearnedLogVariance(terms=3)})


def describe_groups(groups: ParameterGroups, module: nn.Module) -> list[tuple[list[str], dict[str, float]]]:
    """Names and own settings of each group."""
    names = {id(p): name for name, p in module.named_parameters()}
    made = groups(module.named_parameters())
    return [([names[id(p)] for p in g["params"]], {k: v for k, v in g.items() if k != "params"}) for g in made]


def test_norms_biases_and_numbers_do_not_decay_and_embeddings_do() -> None:
    assert describe_groups(DEFAULT_GROUPS, whole()) == [
        ([*TEXT_WEIGHTS, *WEIGHTS], {}),
        ([*TEXT_OTHERS, *OTHERS, TABLE], {"weight_decay": 0.0}),
    ]


def test_a_rate_of_its_own_puts_the_text_encoder_last() -> None:
    own = {"lr": 1e-5}
    assert describe_groups(ParameterGroups(text_encoder_lr=1e-5), whole()) == [
        (WEIGHTS, {}),
        ([*OTHERS, TABLE], {"weight_decay": 0.0}),
        (TEXT_WEIGHTS, own),
        (TEXT_OTHERS, own | {"weight_decay": 0.0}),
    ]
    both = ParameterGroups(decay_norms_and_biases=True, text_encoder_lr=1e-5)
    assert [settings for _, settings in describe_groups(both, whole())] == [{}, own]


def test_alike_is_one_group_in_the_modules_order() -> None:
    module = whole()
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert describe_groups(SINGLE_GROUP, module) == [(trained, {})]


def test_groups_without_a_parameter_are_left_out() -> None:
    assert describe_groups(DEFAULT_GROUPS, nn.Linear(2, 2, bias=False)) == [(["weight"], {})]
    assert describe_groups(DEFAULT_GROUPS, nn.LayerNorm(2)) == [(["weight", "bias"], {"weight_decay": 0.0})]
    assert describe_groups(DEFAULT_GROUPS, nn.Linear(2, 2).requires_grad_(False)) == []


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("groups", [DEFAULT_GROUPS, SINGLE_GROUP])
def test_a_step_without_gradient_moves_what_decays_alone(kind: type[torch.optim.Optimizer], groups: ParameterGroups) -> None:
    module = whole()
    for p in module.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    kind(groups(module.named_parameters()), lr=0.1, weight_decay=0.1).step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, torch.ones_like(p))}
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert moved == ({*WEIGHTS, *TEXT_WEIGHTS} if groups == DEFAULT_GROUPS else trained)


def test_rates_by_patterns_make_groups_of_their_own_and_the_first_match_counts() -> None:
    rates = {"*.bias": 2.0, "network.*": 0.5, "text_encoder.1.*": 3.0}
    biases = [name for name in (*TEXT_OTHERS, *OTHERS) if name.endswith(".bias")]
    others = [name for name in OTHERS if name not in biases]
    assert describe_groups(ParameterGroups(rates=rates, decay_norms_and_biases=True), whole()) == [
        (["text_encoder.0.weight", "text_encoder.2.weight", TABLE], {}),
        (biases, {"lr_factor": 2.0}),
        (["network.gain", *WEIGHTS[:1], "network.norm.weight", *WEIGHTS[1:]], {"lr_factor": 0.5}),
        (["text_encoder.1.weight"], {"lr_factor": 3.0}),
    ]
    assert {name for name in others if name.endswith("weight")} == {"network.norm.weight"}


def test_a_pattern_multiplies_the_base_rate_of_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a text encoder that has its own; the schedule multiplies what comes of it."""
    groups = ParameterGroups(
        decay_norms_and_biases=True, text_encoder_lr=0.1, rates={"*embedding*": 0.5, "network.conv.*": 3}
    )
    module = training(ClassLabels(classes=["a"], width=2), groups)
    monkeypatch.setattr(NoisePredictorTraining, "trainer", type("Trainer", (), {"max_steps": 8}))
    optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 3.0, 0.05])
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.75, 0.0125])
    assert all("lr_factor" not in group for group in optimizer.param_groups)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest() -> None:
    for pattern, near in (("network.cnv.*", "network.conv.*"), ("network.linear.wieght", "network.linear.weight")):
        with pytest.raises(ValueError, match=re.escape(f"'{pattern}'")) as caught:
            training(ClassLabels(classes=["a"], width=2), ParameterGroups(rates={pattern: 0.5}))
        assert repr(near) in str(caught.value)
    with pytest.raises(ValueError, match=r"'network.frozen.\*'"):
        training(ClassLabels(classes=["a"], width=2), ParameterGroups(rates={"network.frozen.*": 0.5}))


def test_a_pattern_that_earlier_ones_leave_nothing_is_refused() -> None:
    for rates in ({"*": 0.5, "network.conv.*": 2.0}, {"network.*": 0.5, "network.conv.weight": 2.0}):
        with pytest.raises(ValueError, match=re.escape(repr(list(rates)[1]))):
            training(ClassLabels(classes=["a"], width=2), ParameterGroups(rates=rates))
    training(ClassLabels(classes=["a"], width=2), ParameterGroups(rates={"network.conv.*": 2.0, "*": 0.5}))


def test_muon_trains_matrices_that_no_pattern_leaves_to_adamw() -> None:
    assert describe_groups(ParameterGroups(adamw_for=["network.conv.*", "*.0.weight"]), whole()) == [
        (["text_encoder.1.weight", "network.linear.weight"], {"use_muon": True}),
        (["text_encoder.0.weight", "network.conv.weight"], {"use_muon": False}),
        ([*TEXT_OTHERS, *OTHERS, TABLE], {"use_muon": False, "weight_decay": 0.0}),
    ]


def training(text_encoder: nn.Module, groups: ParameterGroups) -> NoisePredictorTraining:
    return NoisePredictorTraining(
        Network(),
        text_encoder,
        scaling=Scaling(0.0, 1.0),
        schedule=RectifiedFlow(),
        prediction=Flow(),
        timesteps=Uniform(),
        weighting=LearnedLogVariance(terms=3),
        optimizer=lambda params: torch.optim.SGD(params, lr=1.0, weight_decay=0.5),
        parameter_groups=groups,
        lr_schedule=Constant(warmup_steps=4),
        batch_size=1,
    )


def test_the_schedule_multiplies_each_groups_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(ClassLabels(classes=["a"], width=2), ParameterGroups(text_encoder_lr=0.1))
    monkeypatch.setattr(NoisePredictorTraining, "trainer", type("Trainer", (), {"max_steps": 8}))
    made = module.configure_optimizers()
    optimizer, rate = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0, 0.5]
    for step in range(6):
        factor = min(1, (step + 1) / 4)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, factor, 0.1 * factor])
        optimizer.step()
        rate.step()


def test_a_schedule_that_does_not_fit_is_refused_before_there_is_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training(ClassLabels(classes=["a"], width=2), DEFAULT_GROUPS)
    monkeypatch.setattr(NoisePredictorTraining, "trainer", type("Trainer", (), {"max_steps": 8}))
    with pytest.raises(ValueError, match=r"lr_schedule.cooldown_steps=9 take 9 steps together"):
        build_optimizer(module, pytest.fail, Constant(cooldown_steps=9))


def test_a_rate_for_a_frozen_text_encoder_is_refused() -> None:
    frozen = ClassLabels(classes=["a"], width=2).requires_grad_(False)
    training(frozen, DEFAULT_GROUPS)
    with pytest.raises(ValueError, match=r"text_encoder_lr=0.1 .*frozen"):
        training(frozen, ParameterGroups(text_encoder_lr=0.1))


@pytest.mark.parametrize("rate", [0, -1e-4, float("inf"), float("nan"), "fast", True])
def test_a_rate_that_is_no_number_above_0_is_refused(rate: object) -> None:
    with pytest.raises(ValueError, match=f"text_encoder_lr={rate} must be a number above 0"):
        ParameterGroups(text_encoder_lr=rate)  # type: ignore[arg-type]
