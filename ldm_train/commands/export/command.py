"""`ldm-train export`: write a run's trained weights as one file with ldm-train's names, or in a published layout."""

from dataclasses import replace
from pathlib import Path

from ldm_train.assembly.trained_for import TRAINED_FOR, read_purpose
from ldm_train.assembly.trained_part import alpha_of, has_lora
from ldm_train.commands.export.export_folder import refuse_existing_file
from ldm_train.commands.export.hub_push import push_folder, refuse_push
from ldm_train.commands.export.own_weights import Export, average_snapshots, complete_export, read_checkpoint_weights
from ldm_train.commands.export.run_layouts import refuse_layout, write_layout
from ldm_train.run_dir.moved_paths import explaining_paths, relocated
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings
from ldm_train.training.ema.profiles import check_length
from ldm_train.weights.tensor_files import write_tensor_file

OWN = (None, "own")


def run(settings: ExportSettings) -> None:
    """Export the weights that the settings select.

    Raises:
        ValueError: settings contradict each other, `out` may not be overwritten, the run cannot be exported so, or the hub
            refuses the upload.
    """
    refuse_export_conflicts(settings)
    refuse_push(settings)
    with relocated(settings.moved):
        trained = read_trained(settings.run_dir)
        with explaining_paths(trained, Path(settings.run_dir)):
            export_run(settings, trained)
    if settings.push is not None:
        print(f"uploaded to {push_folder(Path(settings.out), settings.push, private=settings.push_private)}")


def export_run(settings: ExportSettings, trained: TrainSettings) -> None:
    """Export the weights of a run with these settings."""
    run_dir = Path(settings.run_dir)
    if settings.ema_length is None:
        export = read_checkpoint_weights(run_dir, str(settings.weights))
    else:
        export = average_snapshots(run_dir, length=settings.ema_length, step=settings.step)
    if (purpose := read_purpose(run_dir)) is not None:
        export.metadata[TRAINED_FOR] = purpose
    if settings.layout in OWN:
        write_own(settings, trained, export)
    else:
        write_layout(settings, trained, export)


def write_own(settings: ExportSettings, trained: TrainSettings, export: Export) -> None:
    """Write one file with ldm-train's names of the weights."""
    out = Path(settings.out)
    if settings.merge:
        export = replace(export, weights=complete_export(trained, Path(settings.run_dir), export.weights))
    elif has_lora(trained):
        export.metadata["alpha"] = alpha_of(trained)
    write_tensor_file(out, export.weights, {"step": export.step} | export.metadata)
    print(f"wrote {len(export.weights)} tensors ({out.stat().st_size / 2**20:.1f} MiB) of step {export.step} to {out}")


def refuse_export_conflicts(settings: ExportSettings) -> None:
    """Raise if settings contradict each other or would have no effect.

    Raises:
        ValueError: naming the first such setting.
    """
    if settings.layout in OWN:
        refuse_own(settings)
    else:
        refuse_layout(settings)
    if settings.ema_length is not None:
        check_length(settings.ema_length, "ema_length")
        if settings.weights != "ema":
            raise ValueError(
                f"weights={settings.weights} and ema_length={settings.ema_length} contradict each other; give one"
            )
    elif settings.step is not None:
        raise ValueError(
            f"step={settings.step} needs ema_length=…; without ema_length, the last checkpoint is exported: leave step out"
        )
    elif settings.weights not in ("ema", "raw") and (
        settings.layout in OWN or not settings.weights.endswith(".safetensors")
    ):
        raise ValueError(f"weights={settings.weights} cannot be exported; weights takes ema (averaged) or raw")


def refuse_own(settings: ExportSettings) -> None:
    """Raise if settings do not fit the export as one file with ldm-train's names.

    Raises:
        ValueError: naming the first such setting.
    """
    if Path(settings.out).suffix != ".safetensors":
        raise ValueError(f"out={settings.out} must end in .safetensors, the format of the file")
    for name in ("dtype", "lora_format", "licence", "data_licence"):
        if getattr(settings, name) is not None:
            raise ValueError(
                f"{name}={getattr(settings, name)} has no effect without layout=diffusers, single_file, lora or controlnet"
            )
    refuse_existing_file(Path(settings.out), overwrite=settings.overwrite)
