"""Build the Lightning module of a training run from its settings."""

import torch

from ldm_train.assembly.optimization_checks import build_parameter_groups
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.trained_part import choose_trained
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.diffusion.objective import Huber, Objective, Penalty, absolute, squared
from ldm_train.diffusion.perturbations import Perturbations
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.module import NoisePredictorTraining

USES = 4  # of a shape: in training, validation, pictures, and pictures of another number


def compile_network(network: torch.nn.Module, *, backend: str, shapes: int = 1) -> None:
    """Compile a network in place (its parameters keep their names) and as one graph: a break would cost speed silently.

    Args:
        shapes: how many shapes the data has; torch would end the run at its ninth graph.
    """
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"compile={backend} is no backend of torch.compile; there are: {known}")
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, USES * shapes)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, USES * shapes)
    network.compile(fullgraph=True, backend=backend)


def list_sampling_warnings(objective: Objective) -> list[str]:
    """Return warnings about an objective that trains well but draws badly.

    Near the time where sampling starts, the network's errors may be amplified, or may have no weight in the loss.
    """
    warnings = []
    denoiser = objective.denoiser
    amplification = denoiser.terminal_amplification()
    if amplification > 1000:
        warnings.append(
            f"this prediction and schedule amplify the network's error {amplification:.0f} times where sampling starts; "
            "set prediction=velocity or schedule=scaled_linear"
        )
    end = torch.tensor([denoiser.schedule.end])
    if objective.weighting.weights(denoiser.schedule.snr(end), denoiser.clean_error_per_output_error(end)).item() == 0:
        warnings.append(
            "this weighting gives no weight to the end of this schedule, where sampling starts; set weighting=uniform"
        )
    return warnings


def choose_penalty(config: TrainSettings) -> Penalty:
    """Return what an error of the output costs."""
    penalties: dict[str, Penalty] = {"squared": squared, "absolute": absolute, "huber": Huber(config.huber_delta)}
    return penalties[config.error]


def training_module(config: TrainSettings, parts: Parts) -> NoisePredictorTraining:
    """Build the Lightning module of these parts; what the settings do not train is frozen."""
    choose_trained(config, parts)
    return NoisePredictorTraining(
        parts.network,
        parts.text_encoder,
        parts.conditions,
        scaling=Scaling.of(parts.autoencoder),
        schedule=parts.schedule,
        prediction=parts.prediction,
        timesteps=build(config.timesteps, "timesteps"),
        weighting=parts.weighting,
        penalty=choose_penalty(config),
        perturbations=Perturbations(config.offset_noise, config.input_perturbation),
        optimizer=build(config.optimizer, "optimizer"),
        parameter_groups=build_parameter_groups(config),
        lr_schedule=build(config.lr_schedule, "lr_schedule"),
        batch_size=config.batch_size,
        seed=config.seed,
        fused_backward=config.fused_backward,
    )
