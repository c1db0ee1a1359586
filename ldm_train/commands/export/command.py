"""`ldm-train export`: a run's trained weights to one file of our own names, or to a folder that others read."""

from dataclasses import replace
from pathlib import Path

from ldm_train.assembly.trained_for import TRAINED_FOR, read_purpose
from ldm_train.assembly.trained_part import alpha_of
from ldm_train.commands.export.export_folder import refuse_existing_file
from ldm_train.commands.export.own_weights import Export, of_checkpoint, of_snapshots, whole
from ldm_train.commands.export.run_layouts import refuse_layout, write_layout
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings
from ldm_train.training.ema.profiles import check_length
from ldm_train.weights.tensor_files import write_tensor_file

OWN = (None, "own")


def run(config: ExportSettings) -> None:
    refuse_contradictions(config)
    trained, run_dir = read_trained(config.run_dir), Path(config.run_dir)
    if config.ema_length is None:
        export = of_checkpoint(run_dir, str(config.weights))
    else:
        export = of_snapshots(run_dir, length=config.ema_length, step=config.step)
    if (purpose := read_purpose(run_dir)) is not None:
        export.told[TRAINED_FOR] = purpose
    if config.layout in OWN:
        write_own(config, trained, export)
    else:
        write_layout(config, trained, export)


def write_own(config: ExportSettings, trained: TrainSettings, export: Export) -> None:
    """One file under our own names."""
    out = Path(config.out)
    if config.merge:
        export = replace(export, weights=whole(trained, Path(config.run_dir), export.weights))
    elif trained.adapter is not None:
        export.told["alpha"] = alpha_of(trained)
    write_tensor_file(out, export.weights, {"step": export.step} | export.told)
    print(f"{len(export.weights)} tensors, {out.stat().st_size / 2**20:.1f} MiB, of step {export.step} in {out}")


def refuse_contradictions(config: ExportSettings) -> None:
    """Say which settings cannot be, or would do nothing.

    Raises:
        ValueError: there is one.
    """
    if config.layout in OWN:
        refuse_own(config)
    else:
        refuse_layout(config)
    if config.ema_length is not None:
        check_length(config.ema_length, "ema_length")
        if config.weights != "ema":
            raise ValueError(f"weights={config.weights} and ema_length={config.ema_length} contradict each other; give one")
    elif config.step is not None:
        raise ValueError(
            f"step={config.step} needs ema_length=…; without it the last checkpoint is exported, at its own step"
        )
    elif config.weights not in ("ema", "raw") and (config.layout in OWN or not config.weights.endswith(".safetensors")):
        raise ValueError(f"weights={config.weights} cannot be exported; a checkpoint holds ema (averaged) and raw")


def refuse_own(config: ExportSettings) -> None:
    """The same of settings that are other layouts'."""
    if Path(config.out).suffix != ".safetensors":
        raise ValueError(f"out={config.out} must end in .safetensors, the format that is written")
    for name in ("dtype", "lora_format", "licence", "data_licence"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name}={getattr(config, name)} has no effect without layout=diffusers, single_file or lora")
    refuse_existing_file(Path(config.out), overwrite=config.overwrite)
