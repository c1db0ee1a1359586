"""`ldm-train evaluate`: a trained run to numbers in a JSON file."""

import json
from pathlib import Path

from omegaconf import DictConfig

from ldm_train.data.cache import LatentCache
from ldm_train.tasks.assemble import (
    build_parts,
    build_recipe,
    build_weak,
    choose_device,
    fill_from_run,
    load_weights,
    read_config,
)
from ldm_train.tasks.config import build
from ldm_train.tasks.evaluations import Subject
from ldm_train.tasks.train import batches, training_module
from ldm_train.training.callbacks.validation import validation_losses


def run(config: DictConfig) -> None:
    trained = read_config(config.run_dir)
    parts, device = build_parts(trained), choose_device(config.device)
    step = load_weights(Path(config.run_dir), parts, weights=config.weights)
    fill_from_run(config, trained)
    weak = build_weak(config, parts.schedule, device)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), device, weak)
    settings = trained.evaluation if config.get("evaluation") is None else config.evaluation
    recipe = build_recipe(config, steps=config.steps, seed=config.seed)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    subject = Subject(generation, recipe, out)
    numbers = build(settings)(subject)
    data = batches(trained, LatentCache(config.cache or trained.cache))
    if data.held_out_entries:
        module = training_module(trained, parts).to(generation.device)
        losses = validation_losses(module, data, batch_size=64, repeats=16)
        numbers |= {f"validation_{name}": value for name, value in losses.items()} | {
            "held_out_examples": len(data.held_out_entries)
        }
    numbers |= {
        "step": step,
        "weights": config.weights,
        "sampler": config.sampler._target_.rpartition(".")[2],
        "steps": config.steps,
        "spacing": config.spacing._target_.rpartition(".")[2],
        "guidance": {name: value for name, value in config.guidance.items() if not name.startswith("_")},
        "seed": config.seed,
    }
    out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(numbers, indent=2))
    print(f"written to {out}")
