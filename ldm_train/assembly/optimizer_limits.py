"""Refuse settings that contradict what an optimizer does by itself, or that it cannot do."""

from torch.optim import Optimizer

from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import FittingSettings, TrainSettings
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.weight_averaging import WeightAveraging

UNSHARDED = {  # names of classes, and why each cannot train parameters of which every process has a part
    "Prodigy": "it finds its rate from all weights of a process",
    "Adafactor": "its moments are of whole rows and columns",
    "SOAP": "its bases are of whole rows and columns",
}
FACTORS = (0.1, 10)  # of a rate that is found; others are rates, set by mistake


def refuse_combinations(config: FittingSettings, optimizer: Optimizer, lr_schedule: LRSchedule) -> None:
    """Raise if settings contradict what an optimizer does by itself.

    Raises:
        ValueError: it cannot be sharded, finds its rate, or averages the weights.
    """
    kind = config.optimizer.target.rpartition(".")[2]
    if config.trainer.strategy == "fsdp2" and (reason := UNSHARDED.get(kind)):
        raise ValueError(
            f"optimizer._target_={config.optimizer.target} does not go with trainer.strategy=fsdp2, because {reason}; "
            "set trainer.strategy=ddp, or another optimizer, such as optimizer=adamw"
        )
    if kind == "Prodigy":
        refuse_rates(config)
    if isinstance(optimizer, WeightAveraging):
        refuse_schedule(config, lr_schedule)
        refuse_averages(config)


def refuse_rates(config: FittingSettings) -> None:
    """Raise if settings are rates for an optimizer that finds one rate for all parameters.

    Raises:
        ValueError: a rate instead of a factor, or several.
    """
    rate = config.optimizer.get("lr", 1.0)
    if not FACTORS[0] <= rate <= FACTORS[1]:
        raise ValueError(
            f"optimizer.lr={rate:g} does not go with optimizer=prodigy, which finds its rate and multiplies it by "
            "optimizer.lr; set optimizer.lr=1"
        )
    if isinstance(config, TrainSettings):
        for name in ("text_encoder_lr", "rates"):
            if (value := getattr(config.parameter_groups, name)) is not None:
                raise ValueError(
                    f"parameter_groups.{name}={value} does not go with optimizer=prodigy, which finds one rate for all "
                    f"parameters; set parameter_groups.{name}=null"
                )


def refuse_schedule(config: FittingSettings, lr_schedule: LRSchedule) -> None:
    """Raise if the rate falls for an optimizer that needs no LR schedule; a warm-up goes with it.

    Raises:
        ValueError: the rate of the last step is not the base rate.
    """
    if config.max_steps > lr_schedule.warmup_steps and lr_schedule(config.max_steps - 1, config.max_steps) != 1:
        raise ValueError(
            f"lr_schedule._target_={config.lr_schedule.target} does not go with optimizer=schedule_free, whose average of "
            "the weights takes the place of a falling rate; set lr_schedule=constant and lr_schedule.cooldown_steps=0"
        )


def refuse_averages(config: FittingSettings) -> None:
    """Raise if a run keeps none or several averages of the weights, and its optimizer makes one.

    Raises:
        ValueError: naming the setting.
    """
    if not isinstance(config, TrainSettings):
        if getattr(config, "ema_length", None) is None:
            raise ValueError(
                "ema_length=null does not go with optimizer=schedule_free, whose average is the autoencoder; set "
                "ema_length=0.1"
            )
        return
    ema = build(config.ema, "ema")
    if len(ema.profiles) > 1 or ema.snapshots is not None:
        raise ValueError(
            f"ema._target_={config.ema.target} does not go with optimizer=schedule_free, which makes one average; "
            "set ema=decay"
        )
