"""Our training step, guided sampling and full-size network compared with diffusers', as ratios in one interleaved run.

    python scripts/benchmark_step.py step                  # the same architecture and weights, four cases
    python scripts/benchmark_step.py preset                # our small preset, and diffusers' default layout of its size
    python scripts/benchmark_step.py loss                  # their validation losses: trains both on caches/openmoji
    python scripts/benchmark_step.py sampling              # classifier-free guidance, DDIM
    python scripts/benchmark_step.py full                  # Stable Diffusion 1.5's size: 15 GB of memory
    python scripts/benchmark_step.py bfloat16              # our steps in bf16-mixed and in 32-true ("theirs")
    python scripts/benchmark_step.py bfloat16_loss         # the losses of both, two seeds each: trains on caches/openmoji

Theirs has the settings of diffusers' train_text_to_image.py: AdamW as it comes, gradients clipped to 1, their EMA. Ours is
what a run of this project does for a batch: keyed draws, objective, clipping, fused AdamW, EMA. Rounds alternate between the
two; the figures are medians over rounds, and the ratio is the median of the rounds' ratios, with its quartiles. The share of
the machine that other processes took meanwhile stands next to them. Peak memory is of a process of its own for each, without
what it held before the network was built.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from measuring import Step, compare, seconds, status_bytes
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.text_encoder import small
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import ClassifierFreeGuidance
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.networks.unet import UNet
from ldm_train.samplers.ddim import DDIM
from ldm_train.settings.strict import READ_BY_RUN
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.ema.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization.lr_schedules import Constant
from ldm_train.types import CaptionBatch, Conditioning, ImageBatch, LatentBatch, Moments
from ldm_train.util.cpu_kind import describe_cpu
from ldm_train.weights.layouts.unet_layout import convert_unet_from_diffusers

ATTENDING = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class Case:
    """One architecture and batch: `heads` (their number at every level) or, where that is 0, `head_size`."""

    name: str
    side: int
    batch: int = 4
    channels: tuple[int, ...] = (64, 128, 256)
    attention: tuple[bool, ...] = (True, True, True)
    heads: int = 0
    head_size: int = 64
    tokens: int = 77
    width: int = 256

    def inputs(self) -> LatentBatch:
        """A batch of latents and of captions' embeddings."""
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(self.batch, 4, self.side, self.side, generator=generator)
        embeddings = torch.randn(self.batch, self.tokens, self.width, generator=generator)
        captions = CaptionBatch(torch.zeros(self.batch, self.tokens, dtype=torch.long), embeddings)
        return LatentBatch(torch.arange(self.batch), Moments(latents, None), captions)


CASES = [
    Case("8 heads, 32x32", 32, heads=8),
    Case("8 heads, 16x16", 16, heads=8, batch=8),
    Case("head size 64, 32x32", 32),
    Case("head size 64, 16x16", 16, batch=8),
]
FULL = Case("Stable Diffusion 1.5", 32, 1, (320, 640, 1280, 1280), (True, True, True, False), heads=8, width=768)
# diffusers' default layout, 8 heads a level, which our preset of the same size to 5% is compared with, on the quick start's
# latents and captions.
DEFAULT = Case("diffusers' default layout", 16, 24, (32, 64, 128), heads=8, tokens=16, width=128)
PRESET = "unet_compact"
PRECISIONS = ("32-true", "bf16-mixed")
PAIRED_STEPS, PAIRED_SEEDS = 120, (0, 1)


class Embedded(nn.Module):
    """A text encoder whose captions are embedded already."""

    def forward(self, captions: CaptionBatch) -> Conditioning:
        return Conditioning(tokens=captions.embeddings)


def their_network(case: Case) -> UNet2DConditionModel:
    torch.manual_seed(0)
    blocks = [ATTENDING if attends else PLAIN for attends in case.attention]
    heads = case.heads or tuple(width // case.head_size for width in case.channels)
    return UNet2DConditionModel(
        sample_size=case.side,
        block_out_channels=case.channels,
        layers_per_block=2,
        down_block_types=tuple(down for down, _ in blocks),
        up_block_types=tuple(up for _, up in reversed(blocks)),
        cross_attention_dim=case.width,
        attention_head_dim=heads,
    )


def our_network(case: Case, like: UNet2DConditionModel | None = None) -> UNet:
    network = UNet(
        in_channels=4,
        context_width=case.width,
        vector_width=None,
        channels=case.channels,
        attention=case.attention,
        middle_attention=True,
        heads=case.heads or None,
        head_size=case.head_size,
        scale_shift=False,
    )
    if like is not None:
        network.load_state_dict(convert_unet_from_diffusers(like.state_dict(), network.state_dict()))
    return network


def training_of(network: nn.Module, text_encoder: nn.Module, *, batch_size: int) -> NoisePredictorTraining:
    """The training of a network, as it comes."""
    return NoisePredictorTraining(
        network,
        text_encoder,
        scaling=Scaling(shift=0.0, scale=1.0),
        schedule=scaled_linear(),
        prediction=Noise(),
        timesteps=Uniform(),
        weighting=UniformWeight(),
        optimizer=torch.optim.AdamW,
        lr_schedule=Constant(),
        batch_size=batch_size,
    )


def our_step(network: nn.Module, case: Case, *, ema: bool = True) -> tuple[Step, Step]:
    """A whole step of ours, and its forward and backward pass alone."""
    module = training_of(network, Embedded(), batch_size=case.batch)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    average = EMA()
    if ema:
        average.start(module)
    batch = case.inputs()

    def forward_backward() -> None:
        module.training_step(batch, 0)["loss"].backward()

    def step() -> None:
        forward_backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if ema:
            average.update(module)

    def without_update() -> None:
        forward_backward()
        optimizer.zero_grad()

    return step, without_update


def their_step(network: nn.Module, case: Case, *, ema: bool = True) -> tuple[Step, Step]:
    """A whole step of diffusers' train_text_to_image.py from latents on, and its forward and backward pass alone."""
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    scheduler = DDPMScheduler(num_train_timesteps=1000, **SCHEDULE)
    average = EMAModel(parameters) if ema else None
    batch = case.inputs()
    latents, embeddings = batch.moments.mean, batch.captions.embeddings

    def forward_backward() -> None:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(latents),))
        predicted = network(scheduler.add_noise(latents, noise, t), t, embeddings, return_dict=False)[0]
        F.mse_loss(predicted.float(), noise.float(), reduction="mean").backward()

    def step() -> None:
        forward_backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.step(parameters)

    def without_update() -> None:
        forward_backward()
        optimizer.zero_grad()

    return step, without_update


def sampling(case: Case, *, steps: int = 10, scale: float = 5.0) -> tuple[Step, Step]:
    """Guided DDIM sampling of a batch: ours and theirs."""
    theirs = their_network(case).eval()
    ours = our_network(case, theirs).eval()
    batch = case.inputs()
    noise, embeddings = batch.moments.mean, batch.captions.embeddings
    assert embeddings is not None
    null = torch.zeros_like(embeddings)
    denoiser = ClassifierFreeGuidance(Denoiser(ours, scaled_linear(), Noise()), Conditioning(tokens=null), scale=scale)
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)

    def we_sample() -> None:
        DDIM()(denoiser, noise, Conditioning(tokens=embeddings), steps=steps)

    @torch.no_grad()
    def they_sample() -> None:
        scheduler.set_timesteps(steps)
        latents, both = noise, torch.cat([null, embeddings])
        for t in scheduler.timesteps:
            plain, reported = theirs(torch.cat([latents] * 2), t, both, return_dict=False)[0].chunk(2)
            latents = scheduler.step(plain + scale * (reported - plain), t, latents).prev_sample

    return we_sample, they_sample


def measure_alone(case: Case, who: str, *, mode: str, repeats: int = 2) -> dict[str, float]:
    """Peak memory, bytes, and seconds a step (or forward pass), in this process."""
    held = status_bytes("VmRSS")
    network: nn.Module = our_network(case) if who == "ours" else their_network(case)
    if mode == "forward":
        step = forward_of(network, case)
    else:
        step, _ = (our_step if who == "ours" else their_step)(network, case, ema=mode == "step with EMA")
    step()
    taken = [seconds(step, 1) for _ in range(repeats)]
    return {"peak_bytes": status_bytes("VmHWM") - held, "step_s": statistics.median(taken)}


def forward_of(network: nn.Module, case: Case) -> Step:
    """A forward pass without gradients."""
    batch = case.inputs()
    latents, tokens, t = batch.moments.mean, batch.captions.embeddings, torch.full((case.batch,), 500)

    @torch.no_grad()
    def forward() -> None:
        network(latents, t, Conditioning(tokens=tokens) if isinstance(network, UNet) else tokens)

    return forward


def in_own_process(case: Case, who: str, *, mode: str = "step with EMA") -> dict[str, float]:
    settings = json.dumps({"case": asdict(case), "who": who, "mode": mode})
    command = [sys.executable, __file__, "child", "--settings", settings, "--threads", str(torch.get_num_threads())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def show(name: str, figures: dict[str, float]) -> None:
    print(
        f"{name:42}  ours {figures['ours_s']:7.3f} s  theirs {figures['theirs_s']:7.3f} s  ratio {figures['ratio']:.2f} "
        f"({figures['ratio_quartile_1']:.2f} to {figures['ratio_quartile_3']:.2f}), "
        f"others took {figures['others_share']:.0%}",
        flush=True,
    )


def run_step(rounds: int) -> dict[str, dict[str, float]]:
    results = {}
    for case in CASES:
        theirs = their_network(case)
        (ours, ours_alone), (step, alone) = our_step(our_network(case, theirs), case), their_step(theirs, case)
        results[case.name] = compare(ours, step, rounds=rounds)
        show(f"{case.name}: step", results[case.name])
        results[f"{case.name}, forward and backward"] = compare(ours_alone, alone, rounds=rounds)
        show(f"{case.name}: forward and backward", results[f"{case.name}, forward and backward"])
        peaks = {who: in_own_process(case, who)["peak_bytes"] for who in ("ours", "theirs")}
        results[case.name] |= {f"{who}_peak_bytes": peak for who, peak in peaks.items()}
        print(f"{case.name}: peak memory, ours {peaks['ours'] / 2**20:.0f} MiB, theirs {peaks['theirs'] / 2**20:.0f} MiB")
    return results


def run_sampling(rounds: int) -> dict[str, dict[str, float]]:
    results = {}
    for case in CASES:
        results[case.name] = compare(*sampling(case), rounds=max(3, rounds // 3))
        show(f"{case.name}: guided sampling, 10 steps", results[case.name])
    return results


def run_preset(rounds: int) -> dict[str, dict[str, float]]:
    settings = OmegaConf.load(Path(__file__).parent.parent / "conf" / "network" / f"{PRESET}.yaml")
    plain = {str(name): value for name, value in settings.items() if name not in {"_target_", *READ_BY_RUN["network"]}}
    ours = UNet(in_channels=4, context_width=DEFAULT.width, vector_width=None, **plain)
    theirs = their_network(DEFAULT)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    print(f"parameters: network={PRESET} {sizes[0]:,}, {DEFAULT.name} {sizes[1]:,}: {sizes[0] / sizes[1] - 1:+.1%}")
    figures = compare(our_step(ours, DEFAULT)[0], their_step(theirs, DEFAULT)[0], rounds=rounds)
    show(f"network={PRESET} / {DEFAULT.name}", figures)
    return {PRESET: figures | {"our_parameters": sizes[0], "their_parameters": sizes[1]}}


def run_loss(rounds: int) -> dict[str, dict[str, float]]:
    """The validation loss of both after the same 600 steps of the quick start, with the same draws."""
    attending = ",".join(ATTENDING[:1] * 3), ",".join(ATTENDING[1:] * 3)
    layout = [f"block_out_channels={list(DEFAULT.channels)}", "layers_per_block=2", f"attention_head_dim={DEFAULT.heads}"]
    layout += [f"down_block_types=[{attending[0]}]", f"up_block_types=[{attending[1]}]"]
    networks = {PRESET: [PRESET], DEFAULT.name: ["diffusers_unet", *layout]}
    results = {}
    for name, (network, *changes) in networks.items():
        words = [f"network={network}", *(f"network.{word}".replace(" ", "") for word in changes)]
        run_dir = Path("outputs") / "benchmark" / network
        every = [f"{what}.every=600" for what in ("pictures", "checkpoint")]
        words += ["experiment=openmoji", "cache=caches/openmoji", f"run_dir={run_dir}", "max_steps=600", *every]
        subprocess.run([sys.executable, "-m", "ldm_train", "train", *words, "validation.every=150"], check=True)
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        results[name] = {str(line["step"]): line["validation_loss"] for line in lines if "validation_loss" in line}
        print(f"{name}: validation loss by step {results[name]}", flush=True)
    return results


def run_full(rounds: int) -> dict[str, dict[str, float]]:
    """By turns in processes of their own, since both do not fit together: forward at 64x64, steps at 32x32 without EMA."""
    results = {}
    forward = replace(FULL, side=64)
    for name, case, mode in (("forward at 64x64", forward, "forward"), ("step at 32x32", FULL, "step")):
        runs = [(in_own_process(case, "ours", mode=mode), in_own_process(case, "theirs", mode=mode)) for _ in range(rounds)]
        ours, theirs = ({key: statistics.median(run[i][key] for run in runs) for key in runs[0][0]} for i in (0, 1))
        results[name] = {f"ours_{key}": value for key, value in ours.items()}
        results[name] |= {f"theirs_{key}": value for key, value in theirs.items()}
        results[name]["ratio"] = statistics.median(b["step_s"] / a["step_s"] for a, b in runs)
        print(
            f"{FULL.name}, {name}: ours {ours['step_s']:.2f} s, {ours['peak_bytes'] / 2**30:.2f} GiB; theirs "
            f"{theirs['step_s']:.2f} s, {theirs['peak_bytes'] / 2**30:.2f} GiB; ratio {results[name]['ratio']:.2f}",
            flush=True,
        )
    return results


def training_step_of(module: nn.Module, compute_loss: Callable[[], Tensor], *, bfloat16: bool) -> Step:
    """A whole step of a training, without EMA."""
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = compute_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def run_bfloat16(rounds: int) -> dict[str, dict[str, float]]:
    """The quick start's step and that of a new autoencoder, each with its own copy of the weights for either precision.

    In seconds of the CPU, of all threads. A batch of 1 shows what a step takes whatever its batch is.
    """
    pictures = ImageBatch(torch.arange(16), torch.rand(16, 3, 64, 64) * 2 - 1)
    settings = OmegaConf.load(Path(__file__).parent.parent / "conf" / "network" / "unet_small.yaml")
    plain = {str(name): value for name, value in settings.items() if name not in {"_target_", *READ_BY_RUN["network"]}}

    def predictor(size: int) -> Step:
        torch.manual_seed(0)
        tokens = torch.randint(1, 40000, (size, 16))
        batch = LatentBatch(torch.arange(size), Moments(torch.randn(size, 4, 16, 16), None), CaptionBatch(tokens))
        network = UNet(in_channels=4, context_width=128, vector_width=128, **plain)
        module = training_of(network, small(), batch_size=size)
        return training_step_of(module, lambda: module.training_step(batch, 0)["loss"], bfloat16=next(choices))

    def autoencoder() -> Step:
        module = AutoencoderTraining(
            NewKLAutoencoder([16, 32, 96], groups=8), optimizer=torch.optim.AdamW, lr_schedule=Constant()
        )
        return training_step_of(module, lambda: module.training_step(pictures, 0)["loss"], bfloat16=next(choices))

    results = {}
    cases: dict[str, Callable[[], Step]] = {
        **{f"the quick start, batch {size}": partial(predictor, size) for size in (24, 1, 96)},
        "an autoencoder, batch 16 of 64x64": autoencoder,
    }
    for name, make in cases.items():
        choices = iter((True, False))
        results[name] = compare(make(), make(), rounds=rounds, clock=time.process_time)
        show(f"{name}: bf16-mixed and 32-true", results[name])
    return results


def run_bfloat16_loss(rounds: int) -> dict[str, object]:
    """The quick start's validation losses by step in either precision, with the same seeds; pairs one after the other."""
    losses: dict[str, dict[str, dict[str, float]]] = {precision: {} for precision in PRECISIONS}
    for seed in PAIRED_SEEDS:
        for precision in PRECISIONS:
            run_dir = Path("outputs") / "benchmark" / f"{precision}-{seed}"
            words = ["experiment=openmoji", "cache=caches/openmoji", f"run_dir={run_dir}", f"max_steps={PAIRED_STEPS}"]
            words += [f"seed={seed}", f"trainer.precision={precision}", f"threads={torch.get_num_threads()}"]
            words += [f"{what}.every={PAIRED_STEPS}" for what in ("pictures", "checkpoint")]
            words += [f"validation.every={PAIRED_STEPS // 2}", "metrics.every=null", "resume=restart"]
            subprocess.run([sys.executable, "-m", "ldm_train", "train", *words], check=True)
            lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            found = {str(line["step"]): line["validation_loss"] for line in lines if "validation_loss" in line}
            losses[precision][str(seed)] = found
            print(f"{precision}, seed {seed}: validation loss by step {found}", flush=True)
    last = str(PAIRED_STEPS)
    full, half = ([losses[precision][str(seed)][last] for seed in PAIRED_SEEDS] for precision in PRECISIONS)
    spread = max(full) - min(full)
    apart = max(abs(a - b) for a, b in zip(full, half, strict=True))
    print(f"after {last} steps the precisions differ by {apart:.4f} at most, the seeds by {spread:.4f}")
    return {"steps": PAIRED_STEPS, "losses": losses, "precisions_differ": apart, "seeds_differ": spread}


MODES: dict[str, Callable[[int], Mapping[str, object]]] = {
    "step": run_step,
    "preset": run_preset,
    "loss": run_loss,
    "sampling": run_sampling,
    "full": run_full,
    "bfloat16": run_bfloat16,
    "bfloat16_loss": run_bfloat16_loss,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=[*MODES, "child"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.mode == "child":
        settings = json.loads(arguments.settings)
        print(json.dumps(measure_alone(Case(**settings.pop("case")), settings.pop("who"), **settings)))
        return
    print(f"torch {torch.__version__}, {describe_cpu()}, {arguments.threads} threads, {arguments.rounds} rounds")
    results = MODES[arguments.mode](arguments.rounds)
    if arguments.out:
        machine = {"threads": arguments.threads, "cpu": describe_cpu()}
        arguments.out.write_text(json.dumps({**machine, **results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
