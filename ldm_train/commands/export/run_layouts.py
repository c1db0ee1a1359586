"""Export a run in published layouts: a pipeline's folder, a single file, or a LoRA, each with a model card."""

from pathlib import Path

import torch

from ldm_train.assembly.control import has_control
from ldm_train.assembly.new_word_files import write_words
from ldm_train.assembly.pipeline_layouts import find_layout
from ldm_train.assembly.trained_for import TRAINED_FOR
from ldm_train.commands.export import usage
from ldm_train.commands.export.control_export import write_control
from ldm_train.commands.export.diffusers_folder import write_pipeline
from ldm_train.commands.export.export_folder import refuse_existing, write_whole_folder
from ldm_train.commands.export.exported_parts import export_parts
from ldm_train.commands.export.lora_export import write_lora
from ldm_train.commands.export.model_card import TASK, Card, write_card
from ldm_train.commands.export.own_weights import Export
from ldm_train.commands.export.single_file import find_unknown_scale, write_single_file
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def refuse_layout(settings: ExportSettings) -> None:
    """Raise if settings do not fit a published layout or would have no effect.

    Raises:
        ValueError: naming the first such setting.
    """
    out = Path(settings.out)
    if out.suffix == ".safetensors":
        raise ValueError(
            f"out={out} must be a folder with layout={settings.layout}: a model card is written with the weights"
        )
    if settings.merge:
        alone = settings.layout in ("lora", "controlnet")
        action = "writes what was trained without merging" if alone else "always merges them"
        raise ValueError(f"merge=true has no effect with layout={settings.layout}, which {action}; leave merge out")
    if settings.lora_format is not None and settings.layout != "lora":
        raise ValueError(f"lora_format={settings.lora_format} has no effect with layout={settings.layout}; set layout=lora")
    refuse_out(settings)


def refuse_out(settings: ExportSettings) -> None:
    out, given = Path(settings.out).resolve(), str(settings.out)
    refuse_existing(out, given=given, overwrite=settings.overwrite, keep=Path(settings.run_dir))


def write_layout(settings: ExportSettings, trained: TrainSettings, export: Export) -> None:
    """Write the layout of the settings into the folder `out` atomically, and print what was written.

    Raises:
        ValueError: the layout does not support the run; the message names the settings that it does not support.
    """
    out, dtype = Path(settings.out), DTYPES[settings.dtype or "float32"]
    if has_control(trained) and settings.layout != "controlnet":
        raise ValueError(
            f"layout={settings.layout} has no place for the ControlNet of this run; set layout=controlnet, which writes it "
            f"without the network that it was trained on, network.weights={trained.network.get('weights')}"
        )
    record = {"layout": settings.layout, "dtype": settings.dtype or "float32", "step": export.step} | export.metadata
    with write_whole_folder(out, record, check=lambda: refuse_out(settings)) as folder:
        write = {
            "diffusers": export_pipeline,
            "single_file": export_single_file,
            "lora": export_lora,
            "controlnet": export_controlnet,
        }[str(settings.layout)]
        card = write(settings, trained, export, folder, dtype)
        write_card(folder, card, trained, Path(settings.run_dir), settings)
    for note in card.notes:
        print(f"note: {note}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{card.kind} Wrote {size / 2**20:.1f} MiB of step {export.step} to {out}; see {out / 'README.md'} for its use")


def export_pipeline(
    settings: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype
) -> Card:
    exported = export_parts(trained, Path(settings.run_dir), export.weights)
    written = write_pipeline(folder, exported, dtype)
    exported.notes += write_words(folder, exported.parts.text_encoder)
    name, metadata = Path(settings.out).name, {"step": export.step} | export.metadata
    if not exported.reasons:
        kind = f"A pipeline in diffusers' layout, as {exported.pipeline} loads it."
        return Card(
            name,
            kind,
            usage.list_tags(exported.pipeline),
            metadata,
            usage.describe_pipeline_use(settings.out, trained, exported.parts),
            exported.notes,
        )
    kind = f"Parts of a run in diffusers' layout ({', '.join(written)}), without a complete pipeline."
    unsupported = [f"not supported by diffusers' classes: {reason}" for reason in exported.reasons]
    tags = [tag for tag in usage.TAGS if tag != TASK]
    return Card(name, kind, tags, metadata, usage.describe_parts_use(settings.out, written), [*unsupported, *exported.notes])


def export_single_file(
    settings: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype
) -> Card:
    name, metadata = Path(settings.out).name, {"step": export.step} | export.metadata
    exported = export_parts(trained, Path(settings.run_dir), export.weights)
    write_single_file(folder / f"{name}.safetensors", exported, dtype)
    exported.notes += write_words(folder, exported.parts.text_encoder)
    text = usage.describe_single_file_use(
        settings.out, name, trained, scale=find_unknown_scale(exported), layout=find_layout(exported.parts.conditions)
    )
    kind = "A complete model in one file in latent-diffusion's layout, as web UIs load it."
    return Card(name, kind, usage.TAGS, metadata, text, exported.notes)


def export_lora(settings: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype) -> Card:
    name, metadata = Path(settings.out).name, {"step": export.step} | export.metadata
    form = settings.lora_format or "diffusers"
    purpose = export.metadata.get(TRAINED_FOR)
    file = write_lora(folder, trained, export.weights, form=form, dtype=dtype, name=name, purpose=purpose).name
    kind = {"diffusers": "A LoRA in diffusers' layout.", "kohya": "A LoRA in kohya's layout, as web UIs load it."}[form]
    text = usage.describe_lora_use(settings.out, file, str(trained.network.get("weights")), trained)
    return Card(name, kind, (*usage.TAGS, "lora"), metadata, text, [])


def export_controlnet(
    settings: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype
) -> Card:
    name, metadata = Path(settings.out).name, {"step": export.step} | export.metadata
    notes = write_control(folder, trained, export.weights, dtype)
    text = usage.describe_control_use(settings.out, str(trained.network.get("weights")), trained)
    kind = "A ControlNet in diffusers' layout, for the network that it was trained on."
    return Card(name, kind, (*usage.list_tags(usage.CONTROL), "controlnet"), metadata, text, notes)
