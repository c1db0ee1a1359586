"""`ldm-train evaluate`: a trained run to numbers in a JSON file."""

import json
from pathlib import Path

from omegaconf import DictConfig

from ldm_train.data.cache import LatentCache
from ldm_train.data.datamodules import CachedLatents
from ldm_train.tasks.assemble import load_generation
from ldm_train.tasks.config import build
from ldm_train.tasks.evaluations import Subject
from ldm_train.tasks.train import data_settings, training_module
from ldm_train.training.callbacks.validation import validation_losses


def run(config: DictConfig) -> None:
    generation, trained, step = load_generation(config.run_dir, weights=config.weights, device=config.device)
    settings = trained.evaluation if config.get("evaluation") is None else config.evaluation
    guidance = trained.pictures.guidance if config.guidance is None else config.guidance
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    subject = Subject(generation, build(config.sampler), config.steps, guidance, config.seed, out)
    numbers = build(settings)(subject)
    data = CachedLatents(LatentCache(config.cache or trained.cache), **data_settings(trained))
    if data.held_out_entries:
        module = training_module(trained, generation.network, generation.conditioner, generation.autoencoder).to(generation.device)
        losses = validation_losses(module, data, batch_size=64, repeats=16)
        numbers |= {f"validation_{name}": value for name, value in losses.items()} | {"held_out_examples": len(data.held_out_entries)}
    numbers |= {
        "step": step,
        "weights": config.weights,
        "sampler": config.sampler._target_.rpartition(".")[2],
        "steps": config.steps,
        "guidance": guidance,
        "seed": config.seed,
    }
    out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(numbers, indent=2))
    print(f"written to {out}")
