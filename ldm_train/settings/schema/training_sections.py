"""Sections of the settings of commands that train: what is saved, measured, drawn and watched."""

from typing import Annotated, Literal

from ldm_train.settings.schema.kinds import (
    Choice,
    Count,
    DrawnPrompts,
    Finite,
    NotNegative,
    OwnObjects,
    PatternFactors,
    Positive,
    Prompts,
    Range,
    Section,
    Text,
    Words,
    setting,
)


class CheckpointSettings(Section):
    """When a run is saved, and which of its checkpoints stay."""

    every: Count = setting(500, "optimizer steps between checkpoints", free=True)
    keep: Count = setting(1, "how many of the newest checkpoints stay", free=True)
    keep_every: Count | None = setting(None, "checkpoints of every so many steps stay for good", free=True)
    best: Text | None = setting(
        None, "the checkpoint with the best value of this metric stays too, such as validation_loss", free=True
    )
    best_is: Annotated[str, Choice(("lowest", "highest"))] = setting(
        "lowest", "which value of that metric is best", free=True
    )
    shares: bool = setting(
        False,
        "with trainer.strategy=fsdp2, each process writes its part; for models that fill one machine's memory",
        free=True,
    )
    background: Annotated[bool | Literal["auto"], Words("true, false or auto")] = setting(
        "auto", "write checkpoints while training goes on, with a copy in the CPU's memory; auto: on a GPU", free=True
    )


class HealthSettings(Section):
    """How often a run looks at its weights and at the machine."""

    every: Count = setting(50, "optimizer steps between looks; every 10th costs up to a percent of the time", free=True)


class PriorSettings(Section):
    """Prior preservation: pictures that network.weights draws first; training on them keeps them from being unlearned."""

    prompts: Prompts | None = setting(None, "what they show; null: none")
    count: Count = setting(200, "pictures, over the prompts in turn; kept in run_dir/prior")
    weight: NotNegative = setting(
        1.0, "of their loss to that of the cache's pictures: weight / (1 + weight) of the examples"
    )
    steps: Count = setting(20, "steps of the sampler")
    seed: int = setting(0, "of their noise")


class ParameterGroupSettings(Section):
    """Which parameters share a rate and a weight decay."""

    decay_norms_and_biases: bool = setting(False, "optimizer.weight_decay is for norms and biases too")
    text_encoder_lr: Positive | None = setting(None, "base rate of a text encoder that is trained; null: optimizer.lr")
    rates: PatternFactors | None = setting(
        None, "factors of the base rate by patterns of parameter names; the first that matches a name counts; null: none"
    )


class ValidationSettings(Section):
    """The loss on held-out examples, and on as many trained ones."""

    every: Count = setting(500, "optimizer steps between measurements", free=True)
    repeats: Count = setting(4, "timesteps per held-out example", free=True)
    batch_size: Count | None = setting(
        None, "examples of one forward pass; null: as many as training takes at once", free=True
    )
    bins: Count = setting(8, "bins of log-SNR, each with a loss of its own", free=True)
    examples: Count | None = setting(1000, "at most so many held-out examples, evenly spread; null: all", free=True)


class PictureSettings(Section):
    """Pictures drawn while a run trains."""

    every: Count = setting(500, "optimizer steps between pictures", free=True)
    prompts: DrawnPrompts | None = setting(None, "what they show; null: trained and held-out captions; []: none", free=True)
    count: Count = setting(
        8, "examples drawn from their captions below their pictures, half of them trained, half held out", free=True
    )
    guidance: list[Finite] | None = setting(None, "scales, such as [1,2,4], a row for each; null: guidance.scale", free=True)
    steps: Count = setting(20, "steps of the sampler", free=True)
    seed: int = setting(0, "of their noise", free=True)


class MetricSettings(Section):
    """Metrics of sets of pictures while a run trains."""

    every: Count | None = setting(800, "optimizer steps between measurements, and at the end; null: none", free=True)
    count: Annotated[int, Range(4)] = setting(
        64, "held-out captions drawn, and as many trained ones; each compared with its true pictures", free=True
    )
    steps: Count = setting(10, "steps of the sampler", free=True)
    seed: int = setting(0, "of their noise", free=True)
    own: OwnObjects = setting([], "further metrics of each picture, which are code of your own (trust=…)", free=True)
