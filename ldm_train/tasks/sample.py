"""`ldm-train sample`: prompts to PNG files."""

from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig
from rich.progress import track

from ldm_train.data.images import save_png, to_bytes
from ldm_train.tasks.assemble import build_parts, choose_device, load_weights, read_config
from ldm_train.tasks.config import at_least_one, build
from ldm_train.training.callbacks.pictures import grid


def run(config: DictConfig) -> None:
    at_least_one(config, "batch_size")
    prompts = read_prompts(config.prompts)
    parts = build_parts(read_config(config.run_dir))
    step = load_weights(Path(config.run_dir), parts, weights=config.weights)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), choose_device(config.device))
    sampler, out = build(config.sampler), Path(config.out)
    pictures = []
    for start in track(range(0, len(prompts), config.batch_size), "drawing"):
        batch = prompts[start : start + config.batch_size]
        images = generation(
            batch, sampler=sampler, steps=config.steps, guidance=config.guidance, seed=config.seed, first=start
        )
        pictures.append(to_bytes(images).cpu())
        for number, picture in enumerate(pictures[-1], start=start):
            save_png(picture, out / f"{number:04d}.png")
    columns = min(8, len(prompts))
    save_png(grid(torch.cat(pictures), columns=columns), out / "grid.png")
    (out / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    print(f"{len(prompts)} pictures of step {step} in {out}, all together in {out / 'grid.png'}")


def read_prompts(prompts: object) -> list[str]:
    """Prompts from a list, or from a text file with one a line.

    Raises:
        ValueError: no such file, or no prompt.
    """
    if isinstance(prompts, str):
        path = Path(prompts)
        if not path.is_file():
            raise ValueError(f"prompts={prompts} is not a text file; give one, or a list: 'prompts=[\"…\"]'")
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        assert isinstance(prompts, ListConfig)
        texts = [str(prompt) for prompt in prompts]
    if not texts:
        raise ValueError(f"prompts={prompts} holds no prompt")
    return texts
