"""Run directories that no training wrote, with everything that one can hold, in a moment."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from ldm_train.settings.composition import compose

MAX_STEPS = 400
EDGES = [-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0]
METRICS: Mapping[str, Callable[[float], float]] = {
    "metrics/kid_efficientnet_lite0": lambda x: 0.2 * x + 0.01,
    "metrics/fid_efficientnet_lite0": lambda x: 80 * x + 9,
    "metrics/precision_efficientnet_lite0": lambda x: 1 - x,
    "metrics/clip_retrieval_at_1_ViT-B-32": lambda x: 0.9 - 0.9 * x,
    "metrics/retrieval_at_1": lambda x: 1 - x,
    "metrics/taught_retrieval_at_1": lambda x: 1 - 0.5 * x,
}
FINISHED = {"time": "2026-01-01T12:40:00+00:00", "step": MAX_STEPS, "as": "finished"}
HOSTILE = "</script><script>alert(1)</script> \"><img src=x onerror='alert(2)'> \u202egnp"


def write_run(folder: Path, *words: str, seed: int = 0, prompts: tuple[str, ...] = ("a fox", HOSTILE)) -> Path:
    """A finished run of `train` with these overrides: curves, pictures, metrics, a start that was interrupted."""
    folder.mkdir(parents=True)
    config = composed((f"max_steps={MAX_STEPS}", f"seed={seed}", *words)) | {"run_dir": str(folder)}
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    write_starts(folder, {**FINISHED, "step": 100, "as": "interrupted (SIGTERM)"}, FINISHED)
    rng = np.random.default_rng(seed)
    lines = [_logged(step, rng) for step in (1, *range(5, MAX_STEPS + 1, 5))]
    write_lines(folder / "metrics.jsonl", *lines)
    write_lines(folder / "timing.jsonl", *(_clock(int(line["step"]), rng) for line in lines))
    bins = [_bins(step, weights) for step in range(100, MAX_STEPS + 1, 100) for weights in ("ema", "raw")]
    write_lines(folder / "validation.jsonl", *bins)
    sets = {"pictures": 64, "held_out": True, "steps": 10, "extractor": "efficientnet_lite0", "features": 1280}
    write_lines(folder / "set_metrics.jsonl", {"step": MAX_STEPS, **sets, "rank_deficient": True})
    for name in ("", "reverse-", "forward-", "pairs-"):
        for step in (200, 400):
            picture(folder / "samples" / f"{name}step-{step:08d}.png", seed=step)
    picture(folder / "samples" / "growth.png", seed=1, height=32)
    reported = {"prompts": list(prompts), "guidance": [2.0], "size": [16, 16], "seed": 0}
    (folder / "samples" / "prompts.json").write_text(json.dumps(reported))
    (folder / "nonfinite").mkdir()
    examples = [{"example": "a", "t": 0.5, "loss": "nan", "finite": False}]
    (folder / "nonfinite" / "step-00000100-rank-0.json").write_text(json.dumps({"step": 100, "examples": examples}))
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "guidance.json").write_text(json.dumps(evaluation()))
    return folder


@cache
def composed(words: tuple[str, ...]) -> dict[str, object]:
    """The config of `train` with these overrides, as plain values; not to be changed."""
    return compose("train", ["cache=caches/a", "run_dir=x", *words]).as_plain()


def write_lines(path: Path, *lines: Mapping[str, object]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_starts(folder: Path, *ends: Mapping[str, object] | None) -> None:
    """`run.json` with a start for each end; None for a start that left no word."""
    starts = [
        {
            "command": f"ldm-train train run_dir='{folder.name}' number={i}",
            "time": "2026-01-01T12:00:00+00:00",
            "packages": {"torch": "2.7.0"},
            "git": {"ldm_train": {"commit": "0123456789abcdef", "modified": True}, "working_directory": None},
            "machine": ["x86_64", "cpu"],
        }
        | ({} if end is None else {"ended": dict(end)})
        for i, end in enumerate(ends)
    ]
    (folder / "run.json").write_text(json.dumps({"content": "a", "starts": starts}))


def picture(path: Path, *, seed: int, height: int = 16) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def evaluation() -> dict[str, object]:
    return {
        "kind": "evaluation",
        "command": "ldm-train evaluate run_dir=a out=b.json",
        "samples": 300,
        "kid_efficientnet_lite0": 0.0123,
        "intervals": {"kid_efficientnet_lite0": [0.011, 0.0139]},
        "guidance": {"scale": 1.5},
        "sweep": [
            {"guidance": {"scale": scale}, "steps": 20, "kid": scale / 100, "intervals": {"kid": [scale / 200, scale / 50]}}
            for scale in (1.0, 2.0)
        ],
    }


def _logged(step: int, rng: np.random.Generator) -> dict[str, float]:
    rest = math.exp(-step / 80)
    noise = float(rng.lognormal(0, 0.2))
    line: dict[str, float] = {"step": step, "loss": (0.1 + 0.9 * rest) * noise, "noise_mse": 0.5 * (0.1 + rest) * noise}
    line |= {"lr": 1e-3 * (1 - step / MAX_STEPS), "grad_norm": 0.3 * noise, "health/clipped": rest / 2}
    line |= {"health/ema_distance": 0.3 * rest + 0.01, "extra/thing": step / 2}
    line |= {f"health/update_ratio/{block}": 1e-3 * noise for block in ("down", "middle", "up")}
    if step == 100:
        line["loss"] = math.nan
    if step % 100 == 0:
        line |= {f"validation_bins/log_snr_{edge}": rest for edge in EDGES}
        for name, factor in (("validation_loss", 1.0), ("validation_loss_raw", 1.2), ("taught_validation_loss", 0.7)):
            value = factor * (0.1 + rest)
            line |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}
        line |= {name: of(rest) for name, of in METRICS.items()} | {"validation_noise_mse": 0.2 + rest}
    return line


def _clock(step: int, rng: np.random.Generator) -> dict[str, float]:
    shares = {"wait_for_data": 0.004, "share_pictures": 0.03, "share_validation": 0.025, "share_metrics": 0.02}
    speed = {"samples_per_second": 95 + float(rng.normal()), "utilisation": 0.4, "memory_gib": 1.5, "minutes_left": 3.0}
    return {"step": step, **speed, **shares}


def _bins(step: int, weights: str) -> dict[str, object]:
    loss = [(0.05 + math.exp(-step / 80)) / (1 + math.exp(-edge / 2)) for edge in EDGES[:-1]]
    ends = {"loss_low": [0.9 * value for value in loss], "loss_high": [1.1 * value for value in loss]}
    return {"step": step, "weights": weights, "edges": EDGES, "loss": loss, **ends, "noise_mse": loss, "counts": [9] * 6}
