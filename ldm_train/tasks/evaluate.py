"""`ldm-train evaluate`: a trained run to numbers in a JSON file."""

import json
from pathlib import Path

from omegaconf import DictConfig

from ldm_train.data.cache import open_caches, together
from ldm_train.tasks.assemble import open_run
from ldm_train.tasks.config import build
from ldm_train.tasks.evaluations import Subject
from ldm_train.tasks.train import training_module
from ldm_train.tasks.train_data import batches
from ldm_train.training.held_out import held_out_losses


def run(config: DictConfig) -> None:
    trained, out = open_run(config), Path(config.out)
    settings = trained.config.evaluation if config.get("evaluation") is None else config.evaluation
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = build(settings)(Subject(trained.generation, trained.recipe, out))
    cache = config.cache or trained.config.cache
    if cache is None:
        print("the run was encoded on the fly: without cache=… there is no validation loss")
    data = None if cache is None else batches(trained.config, together(open_caches(cache)))
    if data is not None and len(data.held_out):
        module = training_module(trained.config, trained.parts).to(trained.generation.device)
        losses = held_out_losses(module, data, batch_size=64, repeats=16)
        numbers |= {f"validation_{name}": value for name, value in losses.scalars().items()} | {
            "held_out_examples": len(data.held_out)
        }
    numbers |= {
        "step": trained.step,
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
