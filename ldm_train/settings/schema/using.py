"""The settings of commands that encode, draw, measure, write or list."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from ldm_train.settings.schema.kinds import (
    Choice,
    Count,
    DrawnPrompts,
    Factors,
    FilePath,
    Finite,
    Length,
    Paths,
    Positive,
    Prompts,
    Range,
    Section,
    Share,
    Text,
    WholeNumber,
    Words,
    setting,
)
from ldm_train.settings.schema.options import CommandSettings, Conditions, Part, TrainerSettings
from ldm_train.settings.schema.sample_options import AxisSettings, EnlargingSettings
from ldm_train.settings.schema.training import Dtype, SourceSettings
from ldm_train.settings.schema.typed_values import as_factors

Device = Annotated[str, Choice(("auto", "cpu", "cuda", "cuda:0", "mps", "xpu"), pattern=r"(cuda|xpu):\d+")]
Moved = Annotated[dict[str, FilePath], BeforeValidator(as_factors), Words("{OLD:NEW}, of paths or of folders above them")]
MOVED = "{outputs/base:/data/base}: where the cache, the encoders or the base weights are now that a run names"
Weights = Annotated[FilePath, Words("ema, raw, or a file of `ldm-train export`")]


class EncodeSettings(SourceSettings):
    """The settings of `ldm-train encode`."""

    cache: FilePath = setting(
        ..., "folder to write, which several nodes must share; the old cache there stays until the new one is complete"
    )
    image_size: Count = setting(64, "side of the pictures, pixels; with crop=buckets, of a square of the same area")
    batch_size: Count = setting(16, "views of pictures of one forward pass")
    workers: WholeNumber = setting(0, "processes that decode pictures")
    unchanged_by: Annotated[str, Choice(("hash", "stat"))] = setting(
        "hash", "stat: trust a file's size and time instead of reading it; they are kept next to the cache"
    )
    prune: bool = setting(False, "drop more than a tenth of the cache's pictures if the source no longer has them")
    strict: bool = setting(False, "exit with 1 if a picture was left out")
    conditions: Conditions = setting([], "as for train; map, inpaint and low_resolution store something with each picture")
    loss_mask: Text | None = setting(None, "as for train: a map of source.maps that is stored with each picture")

    source: Part
    crop: Part
    autoencoder: Part
    text_encoder: Part
    trainer: TrainerSettings


class FitSettings(SourceSettings):
    """The settings of `ldm-train fit`."""

    out: FilePath = setting(..., "folder for the cache, the run, its pictures and pages; the same folder again goes on")
    minutes: Positive = setting(30.0, "of everything together, about; training takes what the rest leaves")
    base: FilePath | None = setting(
        None, "fine-tune this instead of training from the start: a run, or a Stable Diffusion in diffusers' layout"
    )
    image_size: Count | None = setting(None, "side of the pictures, pixels; null: by the pictures and the machine")
    background: Text | None = setting(  # type: ignore[assignment]
        None, "what shows through transparent pictures, and around them with crop=fit; null: as most of them have it"
    )
    prompts: DrawnPrompts | None = setting(None, "what the last pictures show; null: captions that were trained")
    strict: bool = setting(True, "false: pictures that cannot be used are left out")
    seed: int = setting(0, "of everything that is drawn")
    threads: Count | None = setting(None, "CPU threads; null: as many as it has cores")

    source: Part
    crop: Part | None = None
    autoencoder: Part | None = None


class DrawingSettings(CommandSettings):
    """How `sample`, `evaluate` and `explain` draw."""

    run_dir: FilePath | None = setting(None, "a trained run")
    steps: Count | None = setting(None, "steps of the sampler; null: the run's pictures.steps")
    seed: int = setting(0, "of the noise")
    weights: Weights = setting("ema", "raw: the weights that the optimizer holds; or a file of `ldm-train export`")
    device: Device = setting("auto", "where to compute; auto: a GPU if there is one")
    moved: Moved | None = setting(None, MOVED)
    control_scale: Finite = setting(1.0, "of a run with a ControlNet: how much the map counts; 0: not at all")

    sampler: Part | None = None
    spacing: Part | None = None
    guidance: Part | None = None


class SampleSettings(DrawingSettings, EnlargingSettings):
    """The settings of `ldm-train sample`."""

    run_dir: FilePath = setting(..., "a trained run, or a pipeline's folder in diffusers' layout")
    prompts: DrawnPrompts | None = setting(
        None,
        "a list, one text, or a file of lines; with options: a fox --n blurry --d 7; null: typed in the terminal",
    )
    out: FilePath = setting(..., "folder for 0000.png ... and grid.png, plot.png or strip.png")
    count: Count = setting(1, "pictures of each prompt")
    first_number: WholeNumber = setting(0, "number of the first picture's noise; the others count on from it")
    size: Annotated[list[Count], Length(2), Words("[HEIGHT,WIDTH], such as [512,768]")] | None = setting(
        None, "height and width in pixels; null: a square of the run's image_size"
    )
    negative_prompt: Text = setting("", "what guidance leads away from")
    picture: FilePath | None = setting(None, "a file to start from instead of noise, or to enlarge")
    strength: Share = setting(1.0, "share of the steps taken from that picture: how much of it may change")
    mask: FilePath | None = setting(None, "a file, white where to draw anew; the rest of the picture is kept")
    paste_original: bool = setting(True, "keep the picture outside mask exactly; false: as the autoencoder reproduces it")
    mask_edge: WholeNumber | None = setting(
        None, "pixels over which what is drawn fades into the picture; 0: a hard edge; null: the autoencoder's factor"
    )
    number: Annotated[dict[str, Finite], Words("NAME=VALUE, as in number.age=30")] = setting(
        {}, "numbers that the run is conditioned on"
    )
    map: Annotated[dict[str, FilePath], Words("NAME=FILE, as in map.depth=depth.png")] = setting(
        {}, "files of maps that the run is conditioned on"
    )
    batch_size: Count = setting(16, "pictures drawn at once")
    labels: bool = setting(False, "write each picture's prompt under it in grid.png")
    attention: bool = setting(
        False, "also write 0000-attention.png …: where the network attended to each word of the prompt, and when"
    )
    x: AxisSettings = setting(AxisSettings(), "")
    y: AxisSettings = setting(AxisSettings(), "")
    interpolate: Annotated[int, Range(2)] | None = setting(
        None, "so many pictures from each prompt to the next, both ends included"
    )
    to_seed: int | None = setting(None, "of an interpolation: the noise goes from seed to this one")
    blend: Annotated[Literal["slerp", "lerp"], Choice(("slerp", "lerp"))] = setting(
        "slerp", "how the prompts' embeddings are blended"
    )
    adapters: Factors | None = setting(
        None,
        "LoRAs with factors, {runs/lora:0.8,other.safetensors:0.5}: runs, or files of ldm-train, diffusers or kohya",
    )
    embeddings: Paths | None = setting(
        None, "vectors of new words, [run/learned_embeds.safetensors], also of diffusers and of web interfaces"
    )


class SweepSettings(Section):
    """Further pictures at every combination of these: a table and a plot."""

    guidance: list[Finite] | None = setting(None, "[1,1.5,2], of guidance.scale")
    steps: list[Count] | None = setting(None, "[10,20]")


class EvaluateSettings(DrawingSettings):
    """The settings of `ldm-train evaluate`."""

    run_dir: FilePath | None = setting(None, "a trained run; give one of run_dir, pictures and pipeline")
    pictures: FilePath | None = setting(None, "a folder of pictures")
    pipeline: FilePath | None = setting(None, "a pipeline's folder in diffusers' layout; its own sampler draws")
    real: FilePath | None = setting(
        None, "a folder of real pictures; null: the cache's held-out ones, decoded by the autoencoder"
    )
    prompts: Prompts | None = setting(None, "a list, one text, or a text file with one a line; null: the held-out captions")
    samples: Count | None = setting(
        None, "pictures to draw; null: one for each held-out picture, or what the evaluation asks for"
    )
    taught: WholeNumber | None = setting(
        None, "trained captions to draw too; null: as many as held-out pictures, at least 20, at most samples; 0: none"
    )
    out: FilePath = setting(
        ..., "FILE.json; a Markdown file and a sweep's plot next to it, and pictures in FILE.json.pictures"
    )
    cache: Paths | None = setting(None, "null: the run's own")
    sweep: SweepSettings = setting(SweepSettings(), "")
    resamples: WholeNumber = setting(200, "random halves of the pictures for the 95 % intervals; 0: none")
    batch_size: Count | None = setting(
        None, "pictures drawn and measured at once; null: 40, fewer large ones, and no more than the run took in training"
    )
    devices: Annotated[int | Literal["auto"], Range(1), Words("a whole number of at least 1, or auto")] = setting(
        "auto", "processes that draw, each on its own GPU; auto: all GPUs, or one process on the CPU"
    )

    evaluation: Part | None = None
    features: Part | None = None
    clip_score: Part | None = None


class ExportSettings(CommandSettings):
    """The settings of `ldm-train export`."""

    run_dir: FilePath = setting(..., "a trained run")
    out: FilePath = setting(..., "FILE.safetensors; with layout=… a folder")
    layout: Annotated[str, Choice(("own", "diffusers", "single_file", "lora", "controlnet"))] | None = setting(
        None, "diffusers (a pipeline's folder), single_file (for web interfaces), lora (adapters), controlnet; null: own"
    )
    lora_format: Annotated[str, Choice(("diffusers", "kohya"))] | None = setting(
        None, "of layout=lora: diffusers, also null, or kohya (for web interfaces)"
    )
    dtype: Dtype | None = setting(None, "of those layouts: float32 (also null), float16, bfloat16")
    weights: Weights = setting("ema", "of the last checkpoint; raw: what the optimizer holds; or a file of this command")
    ema_length: Positive | None = setting(
        None, "such as 0.08: make the average over this share of the run from the snapshots that ema=power stored"
    )
    moved: Moved | None = setting(None, MOVED)
    step: WholeNumber | None = setting(None, "where that average ends; null: at the last snapshot")
    merge: bool = setting(False, "of a run that trains adapters or a part by names: write all weights, with those merged in")
    overwrite: bool = setting(
        False, "replace a folder that this command did not write, or that was changed since; its files are lost"
    )
    licence: Text | None = setting(None, "of the weights, for the model card, such as openrail or apache-2.0")
    data_licence: Text | None = setting(None, "of the pictures and captions, for the model card")
    push: Text | None = setting(None, "USER/NAME: also upload the folder to this repository of the Hugging Face hub")
    push_private: bool = setting(True, "that repository is private; false: public")


class ReportSettings(CommandSettings):
    """The settings of `ldm-train report`."""

    run_dir: Paths = setting(..., "a run directory, or several: [outputs/a,outputs/b]; also of runs that are still going on")
    out: FilePath = setting(..., "the HTML file")


class ExplainSettings(DrawingSettings):
    """The settings of `ldm-train explain`."""

    run_dir: Paths | None = setting(None, "a trained run, or two to compare: [outputs/a,outputs/b]; or give cache")  # type: ignore[assignment]
    cache: Paths | None = setting(
        None,
        "instead of a run: show what needs no trained network, by the settings of a training "
        "(experiment=…, config=FILE, schedule=…, prediction=…)",
    )
    image_size: Count | None = setting(None, "with cache: side of its pictures, pixels; null: the cache's own")
    key: Text | None = setting(
        None, "the example of the run's data to show, by its name in the source; null: the first held-out one"
    )
    picture: FilePath | None = setting(None, "a picture file to show instead, with prompt=…")
    prompt: Text | None = setting(None, "what the picture shows; null: the example's caption")
    others: Prompts | None = setting(
        None, "other prompts to draw from the same noise: a list, or a text file; null: two captions of the run's data"
    )
    out: FilePath = setting(..., "the HTML file")

    schedule: Part | None = None
    prediction: Part | None = None
    autoencoder: Part | None = None
    text_encoder: Part | None = None


class PlaygroundSettings(DrawingSettings):
    """The settings of `ldm-train playground`."""

    run_dir: Paths = setting(..., "a trained run, or several: [outputs/a,outputs/b]")  # type: ignore[assignment]
    out: FilePath | None = setting(
        None, "folder for pictures and uploads, all that is written; null: a temporary one, removed at the end"
    )
    host: Text = setting("127.0.0.1", "address to listen on; any but this machine's own (127.0.0.1, ::1) needs the token")
    port: Annotated[int, Range(0, 65535)] = setting(7860, "port to listen on; 0: any that is free")
    token: Text | None = setting(None, "what a browser must know, at least 16 letters; null: random where needed")
    follow: bool = setting(False, "draw with each new checkpoint of a run that trains")
    adapters: Factors | None = setting(None, "LoRAs with factors as for sample; each gets a slider")
    upscaler: FilePath | None = setting(None, "a run that enlarges pictures, as for sample, where the page is asked to")
    embeddings: Paths | None = setting(None, "vectors of new words, as for sample")


class TokensSettings(CommandSettings):
    """The settings of `ldm-train tokens`."""

    text: Text | None = setting(None, "what to split into tokens; its name may be left out")
    run_dir: FilePath | None = setting(None, "a trained run, whose text encoder is looked at; or give text_encoder")
    weights: Weights = setting("ema", "raw: the weights that the optimizer holds; or a file of `ldm-train export`")
    moved: Moved | None = setting(None, MOVED)
    neighbours: WholeNumber = setting(5, "nearest tokens that are listed for each")
    out: FilePath | None = setting(None, "an HTML file to write it to as well")
    words: Prompts | None = setting(None, "a text file with one word or text a line, or a list, for projector")
    projector: FilePath | None = setting(
        None, "a folder for the vectors of words, which TensorBoard's embedding projector opens"
    )

    text_encoder: Part | None = None


class RunsSettings(CommandSettings):
    """The settings of `ldm-train runs`."""

    dir: FilePath = setting("outputs", "the folder; its name alone on the command line will do")
    sort: Text = setting("started", "or name, state, step, speed; or a metric such as validation_loss, the best first")
    format: Annotated[str, Choice(("table", "json"))] = setting("table", "or json, with all metrics of each run")
