"""Merge low-rank adapters, of runs and of other programs' files, into a run's weights before it draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ldm_train.assembly.control import has_control
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.stored_weights import read_weights
from ldm_train.assembly.trained_for import require_same_prediction
from ldm_train.assembly.trained_part import alpha_of, parameters_of
from ldm_train.run_dir.record import CONFIG
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import note_all
from ldm_train.weights.lora.lora_files import read_adapter
from ldm_train.weights.lora.low_rank import WeightedAdapter, extract_adapter, merge_adapters

PIPELINES = "pytorch_lora_weights.safetensors"  # a folder's, as diffusers writes it
FORMS = "'adapters={runs/lora:0.8,other.safetensors:0.5}', or 'adapters=[runs/lora,other.safetensors]' for factors of 1"


def add_adapters(setting: object, config: TrainSettings, parts: Parts) -> None:
    """Add what each adapter changes, times its factor, to the weights of the parts, in place.

    Args:
        setting: paths to factors, or paths, or one path; None for no adapter.
        config: of the run whose parts these are.

    Raises:
        ValueError: no such setting, or something that is no adapter of these parts, or one of another prediction.
    """
    if wanted := list_adapters(setting):
        weights = {name: p.detach() for name, p in parameters_of(parts).items()}
        put_weights(parts, merge_listed(wanted, config, parts, weights))


def merge_listed(
    wanted: Sequence[tuple[str, float]], config: TrainSettings, parts: Parts, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights that adapters change, with the changes; nothing is written. Raises as `add_adapters`.

    Args:
        wanted: paths and factors.
        weights: of the parts, without adapters.
    """
    for path, _ in wanted:
        note_all(require_same_prediction(Path(path), config, parts))
    return merge_adapters(
        weights, [WeightedAdapter(read_adapter_of(Path(path), weights), scale, path) for path, scale in wanted]
    )


def put_weights(parts: Parts, weights: Mapping[str, Tensor]) -> None:
    """Write weights into the parts."""
    for prefix, module in parts.trained().items():
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=False)


def list_adapters(setting: object) -> list[tuple[str, float]]:
    """Return the paths of a setting for adapters, and their factors.

    Raises:
        ValueError: a setting of another form.
    """
    if setting is None:
        return []
    if isinstance(setting, str):
        return [(setting, 1.0)]
    if isinstance(setting, dict):
        pairs: list[tuple[object, object]] = [(str(path), scale) for path, scale in setting.items()]
    elif isinstance(setting, list):
        pairs = [(one.get("path"), one.get("scale", 1.0)) if isinstance(one, dict) else (one, 1.0) for one in setting]
    else:
        pairs = [(setting, None)]
    found = []
    for path, scale in pairs:
        if not isinstance(path, str) or not isinstance(scale, int | float) or isinstance(scale, bool):
            raise ValueError(f"adapters={setting} must be paths and their factors, such as {FORMS}")
        found.append((path, float(scale)))
    return found


def read_adapter_of(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the adapter of a run directory, of a diffusers folder, or of a file."""
    if (path / CONFIG).is_file():
        config = read_trained(path)
        if has_control(config):
            raise ValueError(f"adapters: {path} is a run with a ControlNet, and no LoRA; draw with it by run_dir={path}")
        if config.adapter is None:
            raise ValueError(f"adapters: {path} is a run without adapters: it was trained with adapter=null")
        return extract_adapter(read_weights(path, "ema")[0], alpha=alpha_of(config))
    file = path / PIPELINES if (path / PIPELINES).is_file() else path
    if not file.is_file():
        raise ValueError(f"adapters: {path} is neither a run directory nor a file of a LoRA, such as {FORMS}")
    return read_adapter(file, weights)
