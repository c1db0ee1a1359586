"""What must be right on a GPU, and how fast it is there: two calls, of at most 4 and 7 minutes, on one GPU.

    python scripts/benchmark_gpu.py right --out right.json  # exit code 1 if something is wrong
    python scripts/benchmark_gpu.py fast --out fast.json
    python scripts/benchmark_gpu.py right --device cpu --tiny  # that the script itself works

They need this repository, PyTorch and Lightning; a part whose further packages are missing is skipped. Each part has an
allotment of seconds, after which it is given up, and is skipped if the call's time is over. The JSON is rewritten after
each part. Failures of `right` are relative differences above the limits in the JSON; rates of `fast` are medians.
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products; read when CUDA starts

import gpu_runs as runs
import pytorch_lightning as pl
import torch
from measuring import Step, write_results
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.training.flops import peak, synchronize
from ldm_train.types import Conditioning

LIMITS = {"float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "devices": 1e-3, "compiled": 1e-4}
TIME = {"right": 240, "fast": 420}  # seconds of a call
PATIENCE = 10  # times as many, if tiny, for a busy machine
Figures = dict[str, object]


@dataclass(frozen=True)
class Bench:
    """Where, and how small, everything is measured."""

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def accelerator(self) -> str:
        return "cpu" if self.device.type == "cpu" else "cuda"

    @property
    def backend(self) -> str:
        """Of torch.compile; a tiny network would take longer to compile than all else."""
        return "aot_eager" if self.tiny else "inductor"

    def small(self) -> dict[str, object]:
        return runs.TINY if self.tiny else runs.SMALL


@dataclass(frozen=True)
class Part:
    """One measurement, its allotment in seconds, and the packages that it needs next to PyTorch and Lightning."""

    run: Callable[[Bench], Figures]
    seconds: int
    needs: tuple[str, ...] = ()


class OverTimeError(BaseException):
    """A part took more than its allotment. No Exception, which torch's compiler would wrap."""


@contextmanager
def tf32(*, enabled: bool) -> Iterator[None]:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def differ(actual: list[Tensor], expected: list[Tensor]) -> float:
    """The relative L2 difference of all tensors together."""
    ours, theirs = (torch.cat([tensor.flatten().double().cpu() for tensor in part]) for part in (actual, expected))
    return ((ours - theirs).norm() / theirs.norm()).item()


def output_and_gradients(network: nn.Module, bench: Bench, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    width = int(str(bench.small()["context_width"]))
    batch = runs.RandomLatents(batch_size=2, side=16, width=width).fetch(torch.arange(2))
    assert batch.captions.embeddings is not None
    network.zero_grad()
    kind = next(network.parameters()).dtype
    x, tokens = (part.to(bench.device, kind) for part in (batch.moments.mean, batch.captions.embeddings))
    mixed = dtype == torch.bfloat16
    with torch.autocast(bench.device.type, dtype) if mixed else nullcontext():
        out = network(x, torch.tensor([10.0, 500.0], device=bench.device, dtype=kind), Conditioning(tokens=tokens))
    out.double().square().mean().backward()
    return [out.detach()], [p.grad.clone() for p in network.parameters() if p.grad is not None]


def precisions(bench: Bench) -> Figures:
    """The network's output and gradients in float32, TF32 and bf16 compared with float64."""
    network = runs.build_network(bench.small()).to(bench.device)
    oracle = output_and_gradients(network.double(), bench, torch.float64)
    network.float()
    figures: Figures = {}
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and bench.device.type == "cpu":
            continue
        with tf32(enabled=name == "tf32"):
            found = output_and_gradients(network, bench, dtype)
        figures |= {f"{name}_{what}": differ(a, b) for what, a, b in zip(("output", "gradient"), found, oracle, strict=True)}
    return judge(figures, {name: LIMITS[name.split("_")[0]] for name in figures})


def judge(figures: Figures, limits: Mapping[str, float]) -> Figures:
    return {
        **figures,
        "limits": dict(limits),
        "ok": all(float(str(figures[name])) <= limit for name, limit in limits.items()),
    }


def short_run(
    bench: Bench,
    name: str,
    *,
    steps: int,
    accelerator: str = "",
    compiled: bool = False,
    checkpointing: bool = False,
    strategy: object = "auto",
    callbacks: Sequence[Callback] = (),
) -> list[float]:
    """Train a small network in a folder of this name, from where it is left there; return the loss of each step."""
    settings = bench.small()
    network = runs.build_network(settings, gradient_checkpointing=checkpointing)
    if compiled:
        network.compile(fullgraph=True, backend=bench.backend)
    data = runs.RandomLatents(batch_size=4, side=16, width=int(str(settings["context_width"])))
    module, where = runs.build_module(network, batch_size=4), accelerator or bench.accelerator
    rest = {"steps": steps, "accelerator": where, "strategy": strategy, "callbacks": callbacks}
    return runs.train(bench.folder / name, module, data, **rest)  # type: ignore[arg-type]


def far(losses: list[float], others: list[float]) -> float:
    """The largest relative difference of any step's loss."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def devices(bench: Bench) -> Figures:
    """The same run on the CPU and on the device."""
    with tf32(enabled=False):
        here = short_run(bench, "device", steps=10)
    return judge({"loss": far(here, short_run(bench, "cpu", steps=10, accelerator="cpu"))}, {"loss": LIMITS["devices"]})


def continued(bench: Bench) -> Figures:
    """The same run twice, and one that is left and continued, bit for bit with deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for name, ends in (("once", (8,)), ("twice", (8,)), ("cut", (3, 8))):
            for end in ends:
                short_run(bench, name, steps=end)
    finally:
        torch.use_deterministic_algorithms(False)
    once, twice, cut = (read_weights(bench.folder / name) for name in ("once", "twice", "cut"))
    figures: Figures = {"twice_bitwise": same(once, twice), "continued_bitwise": same(once, cut)}
    return figures | {"ok": all(figures.values())}


def read_weights(run_dir: Path) -> list[Tensor]:
    """Weights, averages and moments of a run's checkpoint."""
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    moments = [v for state in checkpoint["optimizer_states"][0]["state"].values() for v in state.values()]
    return [*checkpoint["state_dict"].values(), *checkpoint["callbacks"]["EMA"]["average"].values(), *moments]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Poison(Callback):
    """Makes the gradient of one step NaN, and has the weights before and after it."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.states: list[list[Tensor]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx in (self.step, self.step + 1, self.step + 2):
            self.states.append([p.detach().clone() for p in pl_module.parameters()])

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.step and len(self.states) == 1:
            gradient = next(p.grad for p in pl_module.parameters() if p.grad is not None)
            gradient.view(-1)[0] = float("nan")


def poisoned(bench: Bench) -> Figures:
    """A gradient that is not finite changes nothing, and the next step trains again."""
    poison = Poison(3)
    short_run(bench, "poisoned", steps=6, callbacks=[poison])
    before, after, later = poison.states
    figures: Figures = {"unchanged": same(before, after), "goes_on": not same(after, later)}
    return figures | {"ok": all(figures.values())}


def compiled(bench: Bench) -> Figures:
    """A compiled run, with gradient checkpointing and with DDP of one process, compared with an eager one."""
    with tf32(enabled=False):
        eager = short_run(bench, "eager", steps=5)
        ways = {
            "compiled": short_run(bench, "compiled", steps=5, compiled=True),
            "checkpointing": short_run(bench, "checkpointing", steps=5, compiled=True, checkpointing=True),
            "ddp": short_run(bench, "ddp", steps=5, compiled=True, strategy=DDPStrategy(gradient_as_bucket_view=True)),
        }
    figures: Figures = {name: far(losses, eager) for name, losses in ways.items()}
    return judge(figures, dict.fromkeys(figures, LIMITS["compiled"]))


def median_seconds(step: Step, bench: Bench, *, warm: int = 3, seconds: float = 5.0, most: int = 30) -> float:
    for _ in range(1 if bench.tiny else warm):
        step()
    taken: list[float] = []
    began = time.perf_counter()
    while not taken or (time.perf_counter() < began + seconds and len(taken) < (2 if bench.tiny else most)):
        synchronize(bench.device)
        start = time.perf_counter()
        step()
        synchronize(bench.device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product(bench: Bench) -> Figures:
    """The rate of a large bf16 product, which shares refer to."""
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    return {"tflops": peak(bench.device, dtype, torch.get_num_threads()) / 1e12}


def speed_of(settings: dict[str, object], side: int, batch: int, *, compiled: bool) -> Callable[[Bench], Figures]:
    """A whole training step in bf16: images a second, and its share of the rate of a large product.

    The batch is halved until it fits into memory.
    """

    def measure(bench: Bench) -> Figures:
        count = 2 if bench.tiny else batch
        while True:
            try:
                return measure_batch(bench, count)
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
            count //= 2
            torch.cuda.empty_cache()

    def measure_batch(bench: Bench, count: int) -> Figures:
        shape, edge = (runs.TINY, 16) if bench.tiny else (settings, side)
        width = int(str(shape["context_width"]))
        network = runs.build_network(shape).to(bench.device).to(memory_format=torch.channels_last)
        if compiled:
            network.compile(fullgraph=True, dynamic=False, backend=bench.backend)
        data = runs.RandomLatents(batch_size=count, side=edge, width=width).fetch(torch.arange(count))
        dtype = torch.float32 if bench.tiny else torch.bfloat16
        taken = median_seconds(runs.build_step(network, runs.move_batch(data, bench.device), bench.device, dtype), bench)
        rate = count / taken
        flops = runs.count_flops(shape, edge) * rate
        figures: Figures = {"batch": count, "step_s": taken, "images_per_s": rate, "tflops": flops / 1e12}
        if bench.device.type == "cuda":
            figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return figures | {"share_of_product": flops / peak(bench.device, dtype, torch.get_num_threads())}

    return measure


def loader(bench: Bench) -> Figures:
    """Batches a second from loader workers into page-locked memory, without a network."""
    figures: Figures = {}
    for workers in (0, 2) if bench.tiny else (0, 4, 8):
        data = runs.RandomLatents(
            batch_size=8 if bench.tiny else 256, side=16 if bench.tiny else 64, width=16, workers=workers
        )
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False)
        data.trainer = trainer
        data.setup("fit")
        batches = iter(data.train_dataloader())
        taken = median_seconds(lambda batches=batches: next(batches) and None, bench, most=20)  # type: ignore[misc]
        figures[f"images_per_s_{workers}_workers"] = data.batch_size / taken
        del batches
    return figures


def encoding(bench: Bench) -> Figures:
    """Pictures a second through an autoencoder of Stable Diffusion's widths, in float32, TF32 and bf16."""
    widths, side, count = ([8, 8], 16, 2) if bench.tiny else ([128, 256, 512, 512], 256, 32)
    model = NewKLAutoencoder(widths, blocks=2).to(bench.device).eval()
    images = torch.rand(count, 3, side, side, device=bench.device) * 2 - 1
    figures: Figures = {}

    def encode() -> None:
        model.encode(images)

    for name in ("float32", "tf32", "bf16"):
        mixed = torch.autocast(bench.device.type, torch.bfloat16) if name == "bf16" else nullcontext()
        with torch.inference_mode(), tf32(enabled=name == "tf32"), mixed:
            taken = median_seconds(encode, bench, most=10)
        figures[f"pictures_per_s_{name}"] = count / taken
    return figures


def checkpoint(bench: Bench) -> Figures:
    """Seconds of a step with a checkpoint and of one without, of unet_base with its average and moments."""
    settings = runs.TINY if bench.tiny else runs.BASE
    data = runs.RandomLatents(batch_size=4, side=16, width=int(str(settings["context_width"])))
    module = runs.build_module(runs.build_network(settings), batch_size=4)
    runs.train(bench.folder / "saved", module, data, steps=3, accelerator=bench.accelerator)
    file = bench.folder / "saved/checkpoints/last.ckpt"
    timing = json.loads((bench.folder / "saved/timing.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    start = time.perf_counter()
    torch.load(file, map_location=bench.device, weights_only=True, mmap=True)
    return {"bytes": file.stat().st_size, "load_s": time.perf_counter() - start, "timing": timing}


def diffusers_step(bench: Bench) -> Figures:
    """The same step with diffusers' network of Stable Diffusion 1.5, compiled, without keyed draws and an average."""
    from diffusers import UNet2DConditionModel

    small = {"block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
             "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1}  # fmt: skip
    side, count, width = (16, 2, 16) if bench.tiny else (32, 256, 768)
    network = UNet2DConditionModel(cross_attention_dim=width, **(small if bench.tiny else {}))
    network = network.to(bench.device, memory_format=torch.channels_last)
    network.compile(dynamic=False, backend=bench.backend)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    latents = torch.randn(count, 4, side, side, device=bench.device)
    tokens = torch.randn(count, runs.TOKENS, width, device=bench.device)

    def step() -> None:
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (count,), device=bench.device)
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=not bench.tiny):
            out = network(latents + noise, t, tokens, return_dict=False)[0]
        (out.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    taken = median_seconds(step, bench)
    return {"batch": count, "step_s": taken, "images_per_s": count / taken}


PARTS: dict[str, dict[str, Part]] = {
    "right": {
        "precisions": Part(precisions, 40),
        "devices": Part(devices, 40),
        "continued": Part(continued, 50),
        "poisoned": Part(poisoned, 20),
        "compiled": Part(compiled, 110),
    },
    "fast": {
        "product": Part(product, 10),
        "sd15_32_compiled": Part(speed_of(runs.SD15, 32, 256, compiled=True), 100),
        "sd15_64_compiled": Part(speed_of(runs.SD15, 64, 64, compiled=True), 100),
        "unet_base_compiled": Part(speed_of(runs.BASE, 32, 256, compiled=True), 60),
        "sd15_32": Part(speed_of(runs.SD15, 32, 256, compiled=False), 40),
        "sd15_64": Part(speed_of(runs.SD15, 64, 64, compiled=False), 40),
        "loader": Part(loader, 40),
        "encoding": Part(encoding, 30),
        "checkpoint": Part(checkpoint, 30),
        "diffusers_32_compiled": Part(diffusers_step, 100, ("diffusers",)),
    },
}


def run_part(part: Part, bench: Bench, *, left: float) -> Figures:
    """Its figures, or why there are none; what it left on the device is freed."""
    if missing := [name for name in part.needs if not has_package(name)]:
        return {"skipped": f"{', '.join(missing)} is not installed"}
    if left <= 1:
        return {"skipped": "the call's time is over"}
    allotment = min(part.seconds * (PATIENCE if bench.tiny else 1), left)

    def give_up(number: int, frame: FrameType | None) -> None:
        raise OverTimeError

    start, before = time.perf_counter(), signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, allotment)
    try:
        figures = part.run(bench)
    except OverTimeError:
        figures = {"error": f"given up after {allotment:.0f} s"}
    except Exception as error:
        traceback.print_exc()
        figures = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch._dynamo.reset()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return figures | {"seconds": time.perf_counter() - start}


def has_package(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was replaced
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=list(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps, to try the script")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="of " + ", ".join(name for p in PARTS.values() for name in p)
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --tiny tries the script")
    parts = PARTS[arguments.mode]
    if unknown := {*(arguments.only or ())} - {*parts}:
        parser.error(f"--only {' '.join(sorted(unknown))}: {arguments.mode} has {', '.join(parts)}")
    ends = time.perf_counter() + TIME[arguments.mode] * (PATIENCE if arguments.tiny else 1)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    results: dict[str, object] = {"device": name, "torch": torch.__version__, "tiny": arguments.tiny}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(arguments.device), arguments.tiny, Path(folder))
        for key in arguments.only or parts:
            figures = run_part(parts[key], bench, left=ends - time.perf_counter())
            results[key] = figures
            wrong += [key] if "error" in figures or figures.get("ok") is False else []
            print(f"{key}: {json.dumps(figures)}", flush=True)
            write_results(arguments.out, results | {"wrong": wrong})
    raise SystemExit(1 if wrong and arguments.mode == "right" else 0)


if __name__ == "__main__":
    main()
