"""How a device computes follows from what it can do, is written into the run, and stays when the run goes on elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ldm_train.assembly import arithmetic, capabilities
from ldm_train.assembly.arithmetic import choose_arithmetic
from ldm_train.assembly.capabilities import Capabilities, read_capabilities, set_tf32
from ldm_train.assembly.training_module import compile_network
from ldm_train.networks import cpu_kernels
from ldm_train.settings.composition import compose_as, groups
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.cpu_kind import describe_cpu, multiplies_bfloat16

NEW = Capabilities("H200", gpu=True, bfloat16=True, tf32=True, compiler=True)
OLD = Capabilities("T4", gpu=True)
CPU = Capabilities()
FAST_CPU = Capabilities(bfloat16=True)
NEEDED = ["cache=x", "run_dir=/nowhere/run"]
LONG = "max_steps=10000"


def chosen(able: Capabilities, *words: str) -> tuple[object, ...]:
    settings = choose_arithmetic(compose_as(TrainSettings, [*NEEDED, *words]), able)
    return settings.trainer.precision, settings.compile, settings.channels_last


@pytest.mark.parametrize(
    ("able", "words", "expected"),
    [
        (NEW, [LONG], ("bf16-mixed", "inductor", True)),
        (NEW, ["max_steps=100"], ("bf16-mixed", None, False)),
        (NEW, [LONG, "trainer.precision=32-true"], ("32-true", None, False)),
        (NEW, [LONG, "compile=null"], ("bf16-mixed", None, False)),
        (NEW, [LONG, "channels_last=false"], ("bf16-mixed", "inductor", False)),
        (NEW, ["max_steps=100", "compile=inductor"], ("bf16-mixed", "inductor", True)),
        (NEW, [LONG, "trainer.strategy=fsdp2", "trainer.devices=2"], ("bf16-mixed", None, False)),
        (NEW, [LONG, "network=diffusers_unet"], ("bf16-mixed", None, False)),
        (NEW, [LONG, "network.weights=x", "adapter=lora"], ("bf16-mixed", None, False)),
        (Capabilities("H200", gpu=True, bfloat16=True), [LONG], ("bf16-mixed", None, False)),
        (OLD, [LONG], ("32-true", None, False)),
        (CPU, [LONG], ("32-true", None, False)),
        (FAST_CPU, [LONG], ("32-true", None, False)),
        (CPU, [LONG, "compile=eager"], ("32-true", "eager", False)),
    ],
)
def test_auto_follows_from_the_device(able: Capabilities, words: list[str], expected: tuple[object, ...]) -> None:
    assert chosen(able, *words) == expected


@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_every_experiment_follows(experiment: str) -> None:
    words = [f"experiment={experiment}"]
    assert chosen(NEW, *words)[0] == "bf16-mixed"
    assert chosen(CPU, *words)[0] == "32-true"


@pytest.mark.parametrize(("capability", "tf32"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_asked_what_it_can_do(capability: tuple[int, int], tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def has_bfloat16(*, including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return capability >= (8, 0)

    for name, answer in {
        "is_available": lambda: True,
        "is_bf16_supported": has_bfloat16,
        "get_device_name": lambda: "a GPU",
        "get_device_capability": lambda: capability,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    able = read_capabilities("auto")
    assert (able.name, able.gpu, able.bfloat16, able.tf32) == ("a GPU", True, tf32, tf32)
    assert asked == [False]
    assert read_capabilities("cpu") == Capabilities(bfloat16=multiplies_bfloat16())
    try:
        for on in (True, False):
            set_tf32(on)
            assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (on, on)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False


@pytest.mark.parametrize(
    ("able", "precision", "advice"),
    [
        (FAST_CPU, "32-true", "bf16-mixed is faster"),
        (CPU, "bf16-mixed", "no bfloat16"),
        (CPU, "bf16-true", "no bfloat16"),
        (CPU, "32-true", None),
        (FAST_CPU, "bf16-mixed", None),
        (OLD, "bf16-mixed", None),
    ],
)
def test_a_line_says_which_precision_is_fast_on_a_cpu(able: Capabilities, precision: str, advice: str | None) -> None:
    settings = choose_arithmetic(compose_as(TrainSettings, [*NEEDED, f"trainer.precision={precision}"]), able)
    line = arithmetic.describe_arithmetic(settings, able, tf32=False)
    assert ("CPU has" in line or "this CPU" in line) == (advice is not None)
    assert (advice or precision) in line


@pytest.mark.parametrize("flags", [{}, {"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_f": True}])
def test_a_cpu_is_described_by_its_flags(flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
    fast = any("bf16" in flag for flag in flags)
    assert multiplies_bfloat16() == fast
    assert describe_cpu() == ("cpu with AVX9 and bfloat16" if fast else "cpu with AVX9")


def test_a_run_records_its_precision_and_keeps_it_elsewhere(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    first = train(cache, run_dir, "max_steps=4")
    assert first.code == 0, first.err
    assert "32-true" in first.out.splitlines()[0]
    stored = OmegaConf.load(run_dir / "config.yaml")
    assert (stored.trainer.precision, stored.compile, stored.channels_last) == ("32-true", None, False)
    monkeypatch.setattr(arithmetic, "read_capabilities", lambda accelerator: NEW)
    assert train(cache, run_dir, "max_steps=6").code == 0
    assert OmegaConf.load(run_dir / "config.yaml").trainer.precision == "32-true"
    refused = train(cache, run_dir, "max_steps=8", "trainer.precision=bf16-mixed")
    assert refused.code == 1
    assert "trainer.precision" in refused.err
    assert train(cache, run_dir, "max_steps=2", "resume=restart").code == 0
    assert OmegaConf.load(run_dir / "config.yaml").trainer.precision == "bf16-mixed"


def test_tf32_is_in_a_cache_s_provenance_where_it_changes_rows(
    pictures: Path, encode: Callable, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.data.cache.manifest import read_manifest

    plain, rounded = tmp_path / "plain", tmp_path / "rounded"
    assert encode(pictures, plain).code == 0
    monkeypatch.setattr(capabilities, "read_capabilities", lambda accelerator: NEW)
    monkeypatch.setattr(capabilities, "has_gpu_driver", lambda: True)
    assert encode(pictures, rounded).code == 0
    assert encode(pictures, tmp_path / "full", "trainer.tf32=false").code == 0
    made = {path.name: read_manifest(path).encoding for path in (plain, rounded, tmp_path / "full")}
    assert made["plain"] == made["full"]
    assert [made["rounded"][kind].get("tf32") for kind in ("pictures", "captions")] == [True, True]  # type: ignore[union-attr]
    assert read_manifest(plain).expected_of_a_run == read_manifest(rounded).expected_of_a_run
    monkeypatch.undo()
    check = ldm_train("check", f"source.path={pictures}", f"cache={rounded}", "measure=false", "autoencoder=identity",
                      "image_size=16", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4")  # fmt: skip
    assert check.code == 0, check.out


def test_compiling_leaves_room_for_every_shape() -> None:
    dynamo = torch._dynamo.config
    before = dynamo.recompile_limit, dynamo.accumulated_recompile_limit
    try:
        compile_network(torch.nn.Identity(), backend="eager", shapes=100)
        assert dynamo.recompile_limit >= 400
        assert dynamo.accumulated_recompile_limit >= 400
    finally:
        dynamo.recompile_limit, dynamo.accumulated_recompile_limit = before


def test_no_size_decides_in_code_that_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are looked at only for tensors that the kernels here are for."""
    from ldm_train.networks.cpu_kernels import attend

    class Unsized(torch.Tensor):
        looked = 0

        @property
        def shape(self) -> torch.Size:  # type: ignore[override]
            Unsized.looked += 1
            return super().shape

    q, k, v = (torch.randn(1, 2, 64, 8).as_subclass(Unsized) for _ in range(3))
    monkeypatch.setattr(cpu_kernels, "is_supported", lambda *tensors: False)
    attend(q, k, v, None)
    assert Unsized.looked == 0
