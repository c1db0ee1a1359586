"""The optimizers of other libraries, in whole runs of a tiny network, and what contradicts them."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.assembly.optimization_checks import build_parameter_groups
from ldm_train.conditioners.text_encoder import small
from ldm_train.networks.unet import UNet
from ldm_train.settings.composition import build, compose
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.callbacks.step_log import effective_rate
from ldm_train.training.cost import state_bytes
from ldm_train.training.optimization.adafactor import Adafactor
from ldm_train.training.optimization.gradients import copy_group_values, restore_group_values
from ldm_train.training.optimization.weight_averaging import WeightAveraging

pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")

CONSTANT = ["lr_schedule=constant"]
OPTIMIZERS = {
    "adafactor": ["optimizer=adafactor", "optimizer.lr=0.2", "optimizer.eps=[null,0.1]"],
    "prodigy": ["optimizer=prodigy", "optimizer.lr=1", "optimizer.d0=3e-3"],
    "schedule_free": ["optimizer=schedule_free", *CONSTANT, "optimizer.lr=1e-2"],
    "lion": ["optimizer=lion", "optimizer.lr=1e-3"],
    "muon": ["optimizer=muon", "optimizer.lr=5e-3"],
    "soap": ["optimizer=soap", "optimizer.lr=5e-3", "optimizer.precondition_frequency=3"],
}
UNSHARDED = ["adafactor", "prodigy", "soap"]
QUIET = ["pictures.every=100", "pictures.prompts=[]", "validation.every=100"]
ONE_BATCH = ["batch_size=9", "caption_dropout=0", "max_steps=20", "checkpoint.every=12"]


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def assert_equal(actual: object, expected: object) -> None:
    """Tensors, numbers and texts in mappings and lists, bit for bit."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict)
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, list | tuple):
        for pair in zip(actual, expected, strict=True):  # type: ignore[call-overload]
            assert_equal(*pair)
    elif isinstance(expected, torch.Tensor):
        assert_close(actual, expected, rtol=0, atol=0)
    else:
        assert actual == expected


def assert_same_state(run_dir: Path, other: Path) -> None:
    """Weights, averages, and everything that the optimizer keeps."""
    actual, expected = checkpoint(run_dir), checkpoint(other)
    for part in ("state_dict", "optimizer_states"):
        assert_equal(actual[part], expected[part])
    assert_equal(actual["callbacks"]["EMA"]["average"], expected["callbacks"]["EMA"]["average"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_learns_with_clipping_and_accumulation_and_continues_bit_for_bit(
    name: str, cache: Path, train: Callable, tmp_path: Path, power_cut: Callable
) -> None:
    """The same nine pictures at every step, in three micro-batches: after 20 their loss is less."""
    words = [*OPTIMIZERS[name], *QUIET, *ONE_BATCH, "micro_batch_size=3", "trainer.gradient_clip_val=0.5"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    answer = train(cache, whole, *words)
    assert answer.code == 0, answer.err
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    with power_cut(12):
        train(cache, cut, *words)
    assert train(cache, cut, *words).code == 0
    assert_same_state(cut, whole)


@pytest.mark.parametrize("name", ["prodigy", "schedule_free"])
def test_a_step_that_is_not_finite_leaves_all_as_it_was(
    name: str, cache: Path, train: Callable, tmp_path: Path, spoiled: Callable
) -> None:
    """Also the count of steps and the estimate of the rate, which are of a whole group."""
    words = [*OPTIMIZERS[name], *QUIET, *CONSTANT, "checkpoint.every=100"]
    before, after = tmp_path / "before", tmp_path / "after"
    assert train(cache, before, *words, "max_steps=4").code == 0
    with spoiled({5}, "loss"):
        assert train(cache, after, *words, "max_steps=5").code == 0
    assert_same_state(after, before)


def make(name: str, *more: str) -> Callable[..., torch.optim.Optimizer]:
    """The constructor that an option stands for, with the arguments of a run."""
    settings = compose("train", ["cache=any", "run_dir=any", f"optimizer={name}", *more])
    assert isinstance(settings, TrainSettings)
    built: Callable[..., torch.optim.Optimizer] = build(settings.optimizer, "optimizer")
    return built


def step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def draw_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 6), (5, 4, 3, 3), (7,))]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_values_of_groups_are_restored(name: str) -> None:
    """A step without gradients changes them, if the optimizer counts, and nothing else."""
    parameters = draw_parameters()
    optimizer = make(name)(parameters)
    step(optimizer, parameters, seed=1)
    before, state = copy_group_values(optimizer), copy.deepcopy(optimizer.state_dict())
    for parameter in parameters:
        parameter.grad = None
    optimizer.step()
    restore_group_values(optimizer, before)
    assert_equal(optimizer.state_dict(), state)
    step(optimizer, parameters, seed=2)


def test_the_schedule_free_average_is_the_librarys_and_leaves_the_weights() -> None:
    parameters = draw_parameters()
    optimizer = make("schedule_free", "optimizer.lr=0.1")(parameters)
    averages = [torch.zeros_like(p) for p in parameters]
    assert isinstance(optimizer, WeightAveraging)
    optimizer.write_averages(parameters, averages)
    assert_close(averages, [p.detach() for p in parameters], rtol=0, atol=0)
    for seed in range(5):
        step(optimizer, parameters, seed=seed)
    before = [p.detach().clone() for p in parameters]
    optimizer.write_averages(parameters, averages)
    assert_close([p.detach() for p in parameters], before, rtol=0, atol=0)
    optimizer.eval()  # type: ignore[attr-defined]
    assert_close(averages, [p.detach() for p in parameters])
    assert (averages[0] - before[0]).abs().max() > 0.01


def test_what_a_schedule_free_run_keeps_and_validates_is_its_average(cache: Path, train: Callable, tmp_path: Path) -> None:
    """And to look at it often, which swaps the weights, changes no bit of the run."""
    seldom, often = tmp_path / "seldom", tmp_path / "often"
    words = OPTIMIZERS["schedule_free"]
    assert train(cache, seldom, *words, *QUIET, "checkpoint.every=100").code == 0
    assert train(cache, often, *words, "validation.every=1", "pictures.every=3", "checkpoint.every=1").code == 0
    assert_same_state(often, seldom)
    stored = checkpoint(seldom)
    averages, states = stored["callbacks"]["EMA"]["average"], stored["optimizer_states"][0]
    number = states["param_groups"][0]["params"][0]  # of the first parameter that decays
    name = next(name for name, value in stored["state_dict"].items() if value.ndim >= 2)
    y, z = stored["state_dict"][name], states["state"][number]["z"]
    assert_close(averages[name], y + (1 - 1 / 0.9) * (z - y))
    assert not torch.equal(averages[name], y)


def test_muon_leaves_first_and_last_layers_embeddings_and_vectors_to_adamw() -> None:
    settings = compose("train", ["cache=any", "run_dir=any", "optimizer=muon"])
    assert isinstance(settings, TrainSettings)
    network = UNet(channels=[8, 8], attention=[False, True], head_size=4, in_channels=4, context_width=8, vector_width=8)
    module = nn.ModuleDict({"network": network, "text_encoder": small(width=8, layers=1, heads=2)})
    groups = build_parameter_groups(settings)(module.named_parameters())
    names = {id(p): name for name, p in module.named_parameters()}
    methods = {names[id(p)]: group["use_muon"] for group in groups for p in group["params"]}
    matrices = {name for name, p in module.named_parameters() if p.ndim >= 2}
    ends = {"network.conv_in.weight", "network.conv_out.weight"}
    embeddings = {f"text_encoder.tower.{name}" for name in ("token_embedding.weight", "positional_embedding")}
    assert ends | embeddings < matrices
    assert {name for name, use_muon in methods.items() if use_muon} == matrices - ends - embeddings


def test_muon_has_one_rate_and_trains_kernels_as_matrices() -> None:
    kernel, matrix = (nn.Parameter(torch.ones(shape)) for shape in ((5, 4, 3, 3), (5, 36)))
    optimizers = [make("muon", "optimizer.lr=0.1")([{"params": [p], "use_muon": True}]) for p in (kernel, matrix)]
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(1))
    matrix.grad = kernel.grad.clone().reshape(matrix.shape)
    for optimizer in optimizers:
        optimizer.step()
    assert_close(kernel.detach().reshape(matrix.shape), matrix.detach())
    size = (matrix.detach() - 1).square().mean().sqrt().item()
    assert 0.5 < size / (0.1 * 0.2) < 1.5, "AdamW's updates are about 0.2 of the rate in the root mean square"
    both = make("muon", "optimizer.lr=0.1")(draw_parameters())
    assert {(group["use_muon"], group["lr"], len(group["params"])) for group in both.param_groups} == {
        (True, 0.1, 2),
        (False, 0.1, 1),
    }


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_adafactor_takes_a_kernel_as_the_matrix_of_its_numbers(memory_format: torch.memory_format) -> None:
    kernel, matrix, parameters = draw_parameters()[1], None, []
    kernel.data = kernel.data.to(memory_format=memory_format)
    matrix = nn.Parameter(kernel.detach().clone().reshape(5, 36))
    parameters = [(kernel, Adafactor([kernel], lr=0.1)), (matrix, torch.optim.Adafactor([matrix], lr=0.1))]
    for seed in range(3):
        for parameter, optimizer in parameters:
            gradient = torch.randn(5, 36, generator=torch.Generator().manual_seed(seed))
            parameter.grad = gradient.reshape(parameter.shape).to(memory_format=torch.preserve_format)
            optimizer.step()
    assert kernel.shape == (5, 4, 3, 3)
    assert kernel.is_contiguous(memory_format=memory_format)
    assert_close(kernel.detach().reshape(5, 36), matrix.detach())


def test_the_memory_of_an_optimizer_counts_all_its_tensors() -> None:
    """Adafactor's rows and columns; SOAP's lists of bases, two for each side of a kernel."""
    shape, numbers = (16, 8, 3, 3), 16 * 72
    step_count = 4
    assert state_bytes(shape, torch.float32, make("adafactor")) == 4 * (16 + 72) + step_count
    assert state_bytes(shape, torch.float32, make("lion")) == 4 * numbers
    assert state_bytes(shape, torch.float32, make("muon")) == 4 * numbers
    assert state_bytes(shape, torch.float32, make("soap")) == 4 * (2 * numbers + 2 * sum(side**2 for side in shape))


def test_the_log_has_the_rate_that_prodigy_found() -> None:
    parameters = draw_parameters()
    optimizer = make("prodigy", "optimizer.lr=0.5", "optimizer.d0=0.01")(parameters)
    assert effective_rate(optimizer.param_groups[0]) == pytest.approx(0.5 * 0.01)
    for _ in range(50):
        step(optimizer, parameters, seed=1)
    assert effective_rate(optimizer.param_groups[0]) > 0.5 * 0.011
    assert effective_rate(make("adafactor", "optimizer.d=2")(parameters).param_groups[0]) == 0.01


REFUSED = [
    (["optimizer=schedule_free"], ["optimizer=schedule_free", "set lr_schedule=constant"]),
    (["optimizer=schedule_free", *CONSTANT, "lr_schedule.cooldown_steps=3"], ["lr_schedule.cooldown_steps=0"]),
    (["optimizer=schedule_free", *CONSTANT, "ema=power"], ["set ema=decay"]),
    (["optimizer=prodigy"], ["optimizer.lr=0.001", "set optimizer.lr=1"]),
    (["optimizer=prodigy", "optimizer.lr=1", "parameter_groups.text_encoder_lr=1e-4"], ["text_encoder_lr=null"]),
    (["optimizer=prodigy", "optimizer.lr=1", "parameter_groups.rates={network.down.*:0.5}"], ["rates=null"]),
    *(([f"optimizer={name}", "optimizer.lr=1", "trainer.strategy=fsdp2"], ["fsdp2", "strategy=ddp"]) for name in UNSHARDED),
    (
        ["optimizer=lion", "fused_backward=true", "trainer.gradient_clip_val=null"],
        ["pytorch_optimizer.optimizer.lion.Lion", "fused_backward"],
    ),
    (["parameter_groups.rates={network.dwon.*:0.5}"], ["'network.dwon.*'", "'network.down.*'"]),
    (["parameter_groups.rates={network.down.*:0}"], ["network.down.*:0"]),
]


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize(("words", "parts"), REFUSED, ids=lambda value: " ".join(value))
def test_what_contradicts_an_optimizer_is_refused_before_anything_starts(
    words: list[str],
    parts: list[str],
    verb: str,
    cache: Path,
    pictures: Path,
    ldm_train: Callable,
    train_words: list[str],
    tmp_path: Path,
) -> None:
    data = [f"cache={cache}", f"run_dir={tmp_path}/run"] if verb == "train" else [f"source.path={pictures}", "measure=false"]
    encoders = [] if verb == "train" else ["autoencoder=identity", "image_size=16"]
    answer = ldm_train(verb, *data, *encoders, *train_words, *words)
    assert answer.code == 1
    said = " ".join((answer.err + answer.out).split())
    for part in parts:
        assert part in said
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["prodigy", "schedule_free", "lion", "muon", "soap"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pytorch_optimizer" else found(name))
    with pytest.raises(ValueError, match=r"pytorch_optimizer, .*pip install 'ldm-train\[optimizers\]'"):
        make(name)
