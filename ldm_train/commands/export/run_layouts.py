"""A run out in the layouts that others read: a pipeline's folder, a single file, a LoRA; each with its model card."""

from pathlib import Path

import torch

from ldm_train.assembly.new_word_files import write_words
from ldm_train.assembly.trained_for import TRAINED_FOR
from ldm_train.commands.export import usage
from ldm_train.commands.export.diffusers_folder import write_pipeline
from ldm_train.commands.export.export_folder import refuse_existing, whole_folder
from ldm_train.commands.export.exported_parts import leaving
from ldm_train.commands.export.lora_export import write_lora
from ldm_train.commands.export.model_card import TASK, Card, write_card
from ldm_train.commands.export.own_weights import Export
from ldm_train.commands.export.single_file import untold_scale, write_single_file
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def refuse_layout(config: ExportSettings) -> None:
    """Say which settings cannot be, or would do nothing, in these layouts.

    Raises:
        ValueError: there is one.
    """
    out = Path(config.out)
    if out.suffix == ".safetensors":
        raise ValueError(f"out={out} must be a folder with layout={config.layout}: a model card is written with the weights")
    if config.merge:
        what = "writes the adapters by themselves" if config.layout == "lora" else "always merges them"
        raise ValueError(f"merge=true has no effect with layout={config.layout}, which {what}; leave it out")
    if config.lora_format is not None and config.layout != "lora":
        raise ValueError(f"lora_format={config.lora_format} has no effect with layout={config.layout}; set layout=lora")
    refuse_out(config)


def refuse_out(config: ExportSettings) -> None:
    out, given = Path(config.out).resolve(), str(config.out)
    refuse_existing(out, given=given, overwrite=config.overwrite, keep=Path(config.run_dir))


def write_layout(config: ExportSettings, trained: TrainSettings, export: Export) -> None:
    """Write what `layout` names into the folder `out`, whole or not at all, and tell of it.

    Raises:
        ValueError: the layout cannot hold the run; it names the settings for which.
    """
    out, dtype = Path(config.out), DTYPES[config.dtype or "float32"]
    told = {"step": export.step} | export.told
    mark = {"layout": config.layout, "dtype": config.dtype or "float32"} | told
    with whole_folder(out, mark, check=lambda: refuse_out(config)) as folder:
        card = {"diffusers": pipeline, "single_file": single_file, "lora": lora}[str(config.layout)](
            config, trained, export, folder, dtype
        )
        write_card(folder, card, trained, Path(config.run_dir), config)
    for note in card.notes:
        print(f"note: {note}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{card.kind} {size / 2**20:.1f} MiB, of step {export.step}, in {out}; its README.md says how to use it")


def pipeline(config: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype) -> Card:
    found = leaving(trained, Path(config.run_dir), export.weights)
    written = write_pipeline(folder, found, dtype)
    found.notes += write_words(folder, found.parts.text_encoder)
    name, told = Path(config.out).name, {"step": export.step} | export.told
    if not found.reasons:
        kind = "A pipeline in diffusers' layout, as StableDiffusionPipeline loads it."
        return Card(name, kind, usage.TAGS, told, usage.pipeline(config.out, trained, found.parts), found.notes)
    kind = f"Parts of a run in diffusers' layout ({', '.join(written)}), which are not a whole pipeline."
    lacking = [f"what diffusers' classes cannot hold: {reason}" for reason in found.reasons]
    tags = [tag for tag in usage.TAGS if tag != TASK]
    return Card(name, kind, tags, told, usage.parts(config.out, written), [*lacking, *found.notes])


def single_file(config: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype) -> Card:
    name, told = Path(config.out).name, {"step": export.step} | export.told
    found = leaving(trained, Path(config.run_dir), export.weights)
    write_single_file(folder / f"{name}.safetensors", found, dtype)
    found.notes += write_words(folder, found.parts.text_encoder)
    text = usage.single_file(config.out, name, trained, scale=untold_scale(found))
    kind = "A whole model in one file of latent-diffusion's layout, as the web UIs load it."
    return Card(name, kind, usage.TAGS, told, text, found.notes)


def lora(config: ExportSettings, trained: TrainSettings, export: Export, folder: Path, dtype: torch.dtype) -> Card:
    name, told = Path(config.out).name, {"step": export.step} | export.told
    form = config.lora_format or "diffusers"
    purpose = export.told.get(TRAINED_FOR)
    file = write_lora(folder, trained, export.weights, form=form, dtype=dtype, name=name, purpose=purpose).name
    kind = {"diffusers": "A LoRA in diffusers' layout.", "kohya": "A LoRA in kohya's layout, as the web UIs load it."}[form]
    text = usage.lora(config.out, file, str(trained.network.get("weights")), trained)
    return Card(name, kind, (*usage.TAGS, "lora"), told, text, [])
